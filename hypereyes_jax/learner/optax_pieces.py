"""Schedules and optimisers that are named: a function of optax, or one's own as `module:object`.

A function of optax is called with those of our settings that it has a parameter for, and with `name=value` options,
which go before them. One's own is called as

    schedule(config: OptimizerConfig) -> optax.Schedule                                    # step -> learning rate
    optimizer(learning_rate: optax.Schedule, config: OptimizerConfig) -> optax.GradientTransformation
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hypereyes_jax.configs.objects import NamedObject, in_words, load_object
from hypereyes_jax.configs.training import OptimizerConfig
from hypereyes_jax.errors import UserError

_OPTION = "--sizes.learner.optimizer"


def named_schedule(config: OptimizerConfig) -> optax.Schedule:
    """The schedule after the warm-up, from its step 0 on; one with a warm-up of its own has it in front.

    Of an optax schedule's parameters, the value it begins with, or its peak, is the learning rate, the one it ends with
    the final learning rate, and the steps are those that the run has left after the warm-up.

    Raises UserError if there is no such schedule, or an option is missing or unknown.
    """
    if ":" in config.schedule:
        schedule = _made(_own(config.schedule, "schedule"), "the OptimizerConfig", config)
        if not callable(schedule):
            raise UserError(
                f"{config.schedule} returned a {type(schedule).__name__}: a schedule is a function of the step"
            )
        _check_schedule(schedule, config)
        return schedule
    function = _of_optax(config.schedule, "schedule", _is_schedule)
    own_warmup = has_own_warmup(config)
    steps = config.total_steps if own_warmup else max(config.total_steps - config.warmup_steps, 1)
    peaks = "peak_value" in inspect.signature(function).parameters
    arguments = {
        "value": config.learning_rate,
        "init_value": 0.0 if peaks else config.learning_rate,
        "peak_value": config.learning_rate,
        "end_value": config.final_learning_rate,
        "warmup_steps": config.warmup_steps,
        "transition_steps": steps,
        "decay_steps": steps,
    }
    return _called(function, arguments, config.schedule_options, f"{_OPTION}.schedule-options")


def _check_schedule(schedule: Callable[[Any], Any], config: OptimizerConfig) -> None:
    """Calls a user's schedule as the optimiser will: under jit, with a step. Raises UserError for no learning rate."""
    rate = jax.jit(lambda step: jnp.asarray(schedule(step)))
    for step in (0, max(config.total_steps - 1, 0)):
        try:
            value = rate(jnp.int32(step))
        except Exception as error:
            raise UserError(
                f"the schedule of {config.schedule} failed at step {step}: {in_words(error)}. It must take the step as "
                "an int32 of jax, work under jax.jit, and return the learning rate"
            ) from error
        if value.shape != () or not bool(jnp.isfinite(value)) or value < 0:
            raise UserError(
                f"the schedule of {config.schedule} gave {value} at step {step}, where a number of at least 0 is needed"
            )


def has_own_warmup(config: OptimizerConfig) -> bool:
    """Whether the named schedule makes the warm-up itself: all of one's own do, and those of optax that say so."""
    if ":" in config.schedule:
        return True
    function = _of_optax(config.schedule, "schedule", _is_schedule)
    return "warmup_steps" in inspect.signature(function).parameters


def named_optimizer(
    config: OptimizerConfig, learning_rate: optax.Schedule, decayed: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """The optimiser that `config.name` names, without clipping.

    Args:
      decayed: which leaves weight decay applies to, where the optimiser takes a mask of them.

    Raises UserError if there is no such optimiser, or an option is missing or unknown.
    """
    if ":" in config.name:
        if config.options:
            raise UserError(
                f"{_OPTION}.options belong to an optimiser of optax, and {config.name} is not one: leave them out"
            )
        inputs = "the schedule and the OptimizerConfig"
        optimizer = _made(_own(config.name, "optimizer"), inputs, learning_rate, config)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise UserError(
                f"{config.name} returned a {type(optimizer).__name__}: an optimizer is an optax.GradientTransformation"
            )
        _check_optimizer(optimizer, config.name)
        return optimizer
    function = _of_optax(config.name, "optimizer", _is_optimizer)
    arguments = {
        "learning_rate": learning_rate,
        "b1": config.b1,
        "b2": config.b2,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
        "mask": decayed,
        "weight_decay_mask": decayed,
        "mu_dtype": config.first_moment_dtype,
    }
    return _called(function, arguments, config.options, f"{_OPTION}.options")


def _check_optimizer(optimizer: optax.GradientTransformation, name: str) -> None:
    """Makes a first step on made-up weights, as the learner will. Raises UserError for one that can't be."""
    weights = {"w": jnp.full((4, 4), 0.01, jnp.float32), "norm": jnp.full(4, 0.01, jnp.float32)}
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), weights)
    try:
        updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(weights), weights)
        shapes = jax.tree.map(jnp.shape, updates)
        rise = optax.tree.vdot(updates, gradient)
    except KeyError:
        return  # it looks for weights of the model by their names
    except Exception as error:
        raise UserError(
            f"the optimizer {name} failed in a step on made-up weights: {in_words(error)}. Its update must work under "
            "jax.jit and give what is added to the weights, with their structure and shapes"
        ) from error
    if shapes != jax.tree.map(jnp.shape, weights) or not bool(jnp.isfinite(rise)):
        raise UserError(
            f"the optimizer {name} gave updates that are not finite, or of other shapes than the weights, in a step on "
            "made-up weights"
        )
    if rise > 0:
        raise UserError(
            f"the optimizer {name} goes up the gradient: its updates are added to the weights, so they need a minus "
            "(optax.scale_by_learning_rate has it, optax.scale_by_schedule has not)"
        )


def own_pieces(config: OptimizerConfig) -> list[tuple[str, NamedObject]]:
    """(what it is for, the object and where it came from) of the pieces that are one's own."""
    names = {"schedule": config.schedule, "optimizer": config.name}
    return [(what, _own(name, what)) for what, name in names.items() if ":" in name]


def _own(name: str, what: str) -> NamedObject:
    source = load_object(name, what)
    if not callable(source.value):
        raise UserError(f"{name} is not a function, but was given as the {what}")
    return source


def _made(source: NamedObject, inputs: str, *arguments: Any) -> Any:
    """Calls a user's own schedule or optimiser. Raises UserError, which names the inputs, where it can't be called."""
    try:
        return source.value(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{source.name} could not be called with {inputs}: {in_words(error)}") from error


def _of_optax(name: str, what: str, suits: Callable[[Any], bool]) -> Callable[..., Any]:
    function = getattr(optax, name, None)
    if inspect.isfunction(function) and suits(function):
        return function
    names = [each for each, value in vars(optax).items() if inspect.isfunction(value) and suits(value)]
    close = get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"optax has no {what} {name!r}.{hint} Name one of optax's, or one of your own as module:object.")


def _is_schedule(function: Any) -> bool:
    first = next(iter(inspect.signature(function).parameters), "")
    return first in ("value", "init_value") and not function.__name__.startswith("scale")


def _is_optimizer(function: Any) -> bool:
    return "learning_rate" in inspect.signature(function).parameters and not function.__name__.startswith("scale")


def _called(function: Callable[..., Any], values: dict[str, Any], options: Sequence[str], option: str) -> Any:
    """The function's result, from what is known and is one of its parameters, and from options like "power=2"."""
    parameters = inspect.signature(function).parameters
    arguments = {name: value for name, value in values.items() if name in parameters}
    for each in options:
        name, equals, text = each.partition("=")
        if not equals or name not in parameters:
            raise UserError(
                f"{option}: {function.__name__} takes no {each!r}. It takes name=value of: {', '.join(parameters)}"
            )
        try:
            arguments[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise UserError(
                f"{option}: {text!r} is not a value for {name}: give a number, True, False or None"
            ) from error
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in arguments
    ]
    if missing:
        raise UserError(f"optax.{function.__name__} needs {missing[0]}: add {option} {missing[0]}=VALUE")
    return function(**arguments)
