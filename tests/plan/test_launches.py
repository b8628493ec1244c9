import pytest

from hypereyes_jax.plan.hlo import opcode
from hypereyes_jax.plan.launches import LAUNCH_SECONDS, SYNC_SECONDS, Launches, count_launches

# As XLA prints GPU programs: fusions and what they hold, a loop in a loop, a conditional, a call, collectives.
COMPUTATIONS = """\
HloModule step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %a = f32[8]{0} add(%p, %p)
  ROOT %m = f32[8]{0} multiply(%a, %a)
}

%small (p: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %f.1 = f32[8]{0} fusion(%p.1), kind=kLoop, calls=%fused
}

%large (p: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  %c.2 = f32[8]{0} copy(%p.2)
  %s.2 = (f32[8]{0}, s32[8]{0}) sort(%c.2, %i), dimensions={0}, to_apply=%fused
  ROOT %g.2 = f32[8]{0} get-tuple-element(%s.2), index=0
}

%inner_condition (p: (s32[], f32[8])) -> pred[] {
  %n = s32[] constant(7)
  ROOT %lt = pred[] fusion(%p, %n), kind=kLoop, calls=%fused
}

%inner_body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w.3 = (f32[8]{0}, s8[33]{0}) custom-call(%x, %y), custom_call_target="__cublas$gemm"
  %g.3 = f32[8]{0} get-tuple-element(%w.3), index=0
  %i.3 = s32[] fusion(%p), kind=kLoop, calls=%fused
  ROOT %t.3 = (s32[], f32[8]) tuple(%i.3, %g.3)
}

%outer_body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w.4 = (s32[], f32[8]{0}) while(%t), condition=%inner_condition, body=%inner_body, OUTER_INNER
  ROOT %t.4 = (s32[], f32[8]) tuple(%i, %y)
}

%outer_condition (p: (s32[], f32[8])) -> pred[] {
  %n.5 = s32[] constant(3)
  ROOT %lt.5 = pred[] compare(%i, %n.5), direction=LT
}

"""
KNOWN = 'backend_config={"known_trip_count":{"n":"5"}}'


def program(*instructions, inner=KNOWN):
    lines = "".join(f"  {each}\n" for each in instructions)
    return f"{COMPUTATIONS.replace('OUTER_INNER', inner)}ENTRY %main (a: f32[8]) -> f32[8] {{\n{lines}}}\n"


FREE = [
    "%a = f32[8]{0} parameter(0)",
    "%k = f32[] constant(1)",
    "%b = s32[8]{0} bitcast(%a)",
    "%i = s32[8]{0} iota(), iota_dimension=0",
    "%t = (f32[8]{0}, /*index=5*/f32[8]{0}) tuple(%a, %a)",
    "%d = f32[8]{0} all-gather-done(%s)",
    "%id = u32[] partition-id()",
]


def test_values_that_are_only_named_cost_nothing():
    assert count_launches(program(*FREE)) == Launches()


@pytest.mark.parametrize(
    "instruction",
    [
        "%f = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused",
        '%c = (f32[8]{0}, s8[4]{0}) custom-call(%a), custom_call_target="__gpu$xla.gpu.triton"',
        "ROOT %y = f32[8]{0} copy(%a)",
        "%s = (f32[4]{0}, f32[32]{0}) all-gather-start(%q), replica_groups=[1,8]<=[8], dimensions={0}",
        "%r = f32[10]{0} all-reduce(%z), replica_groups={{0,1}}, to_apply=%fused",
        "%o = (s32[2]{0}, f32[2]{0}) sort(%a, %b), dimensions={0}, to_apply=%fused",
    ],
)
def test_a_fusion_a_custom_call_a_copy_a_collective_and_a_sort_are_one_kernel_each(instruction):
    assert count_launches(program(*FREE, instruction)) == Launches(kernels=1)


def test_a_loop_counts_its_body_and_condition_once_a_trip():
    line = f"%w = (s32[], f32[8]{{0}}) while(%t), condition=%inner_condition, body=%inner_body, {KNOWN}"
    assert count_launches(program(line)) == Launches(kernels=5 * (2 + 1))


def test_loops_within_loops_multiply():
    outer = KNOWN.replace('"5"', '"4"')
    line = f"%w = (s32[], f32[8]{{0}}) while(%t), condition=%outer_condition, body=%outer_body, {outer}"
    # 4 times: the inner loop's 5 trips of 3 kernels, and the comparison
    assert count_launches(program(line)) == Launches(kernels=4 * (5 * 3 + 1))


def test_a_loop_of_unknown_length_waits_for_the_host_at_each_trip_that_is_expected():
    expected = 'metadata={op_name="jit(step)/expected_trips_6.50/while"}'
    line = f"%w = (s32[], f32[8]{{0}}) while(%t), condition=%inner_condition, body=%inner_body, {expected}"
    assert count_launches(program(line)) == Launches(kernels=6.5 * 3, host_synced_loops=6.5)


def test_an_unknown_loop_inside_a_known_one_waits_once_a_trip_of_both():
    line = f"%w = (s32[], f32[8]{{0}}) while(%t), condition=%outer_condition, body=%outer_body, {KNOWN}"
    inner = 'metadata={op_name="jit(step)/expected_trips_2.00/while"}'
    found = count_launches(program(line, inner=inner))
    assert found == Launches(kernels=5 * (2 * 3 + 1), host_synced_loops=10)


def test_a_loop_that_compares_with_a_constant_runs_so_often_and_still_waits_where_the_compiler_does_not_say():
    line = "%w = (s32[], f32[8]{0}) while(%t), condition=%outer_condition, body=%inner_body"
    assert count_launches(program(line)) == Launches(kernels=3 * (2 + 1), host_synced_loops=3)


@pytest.mark.parametrize(
    "named", ["branch_computations={%small, %large}", "true_computation=%large, false_computation=%small"]
)
def test_a_conditional_counts_as_its_costliest_branch_and_waits_for_the_host(named):
    line = f"%c = f32[8]{{0}} conditional(%p, %a, %a), {named}"
    assert count_launches(program(line)) == Launches(kernels=2, host_synced_branches=1)


def test_a_call_counts_what_it_calls():
    assert count_launches(program("%c = f32[8]{0} call(%a), to_apply=%large")) == Launches(kernels=2)


def test_launches_take_time_at_the_stated_cost():
    found = Launches(kernels=1000, host_synced_loops=3, host_synced_branches=2)
    assert found.seconds == pytest.approx(1000 * LAUNCH_SECONDS + 5 * SYNC_SECONDS)


def test_an_opcode_follows_a_shape_of_any_form():
    tuple_shape = "(s32[], f32[16,128]{1,0:T(8,128)}, /*index=5*/(bf16[2]{0}, u32[]))"
    assert opcode(f"  %w = {tuple_shape} while(%t), condition=%c, body=%b") == "while"
    assert opcode("  ROOT %lt.5 = pred[] compare(%i, %n.5), direction=LT") == "compare"
    assert opcode("}") is None
    assert opcode("") is None
