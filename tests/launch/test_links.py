"""Messages and samples between processes, and who may call."""

import contextlib
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.launch.links import peers
from hypereyes_jax.launch.links.messages import Message, receive
from hypereyes_jax.launch.links.peers import PeerServer, call
from hypereyes_jax.launch.links.samples import from_message, spread, to_message
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.processing import ContextChunk, PatchedImage, SampledChunk


@pytest.mark.parametrize("large", [False, True])
def test_messages_arrive_as_they_were_sent(large):
    arrays = [np.float32(1.5), np.zeros((0, 3), np.int32), np.arange(12).reshape(3, 4).T, np.array([True, False])]
    arrays.append(np.arange(3).astype("bfloat16"))
    if large:
        arrays.append(np.arange(1 << 16, dtype=np.float32).reshape(2, -1).T)
    ours, theirs = socket.socketpair()
    pieces = Message("name", [1, "é", None], arrays).encoded()
    assert (len(pieces) == 1) != large
    sending = threading.Thread(target=lambda: [ours.sendall(piece) for piece in pieces])
    sending.start()
    found = receive(theirs)
    sending.join()
    assert (found.name, found.values) == ("name", [1, "é", None])
    for array, wanted in zip(found.arrays, arrays, strict=True):
        assert (array.dtype, array.shape) == (wanted.dtype, np.shape(wanted))
        np.testing.assert_array_equal(array, wanted)


def sample(seed, image):
    rng = np.random.default_rng(seed)
    sampled = SampledChunk(
        rng.integers(0, 99, 4, dtype=np.int32), *rng.normal(size=(2, 4)).astype(np.float32), np.full(4, seed, np.int32)
    )
    context = ContextChunk(rng.integers(0, 99, 3, dtype=np.int32), (image,))
    teacher = rng.normal(size=8).astype(np.float32) if seed % 2 else None
    return TrainingSample((context, sampled, ContextChunk(context.tokens), sampled), 1 / 3, seed > 1, 1.0, teacher)


def test_samples_that_are_handed_out_are_the_same_and_share_their_images():
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    samples = [sample(seed, image) for seed in range(4)]
    parts = spread(samples, 3)
    assert [len(part) for part in parts] == [2, 1, 1]
    (again, last) = from_message(to_message(parts[0]))
    assert again.chunks[0].images[0] is last.chunks[0].images[0]
    assert again.chunks[0].images[0].tobytes() == image.tobytes()
    for found, wanted in ((again, samples[0]), (last, samples[3])):
        assert (found.advantage, found.failed, found.weight) == (wanted.advantage, wanted.failed, wanted.weight)
        for chunk, given in zip(found.chunks, wanted.chunks, strict=True):
            for name in ("tokens", *(("logp_truncated", "logp_full", "version") if hasattr(given, "version") else ())):
                np.testing.assert_array_equal(getattr(chunk, name), getattr(given, name))
        np.testing.assert_array_equal(found.teacher_logp, wanted.teacher_logp)


def test_patches_that_a_loader_made_arrive_as_they_are():
    image = PatchedImage(np.arange(48, dtype=np.uint8).reshape(4, 12), (1, 2, 2))
    (found,) = from_message(to_message([sample(0, image)]))
    (again,) = found.chunks[0].images
    assert again.grid_thw == (1, 2, 2)
    assert again.patches.dtype == np.uint8
    np.testing.assert_array_equal(again.patches, image.patches)


def test_who_gets_no_sample_gets_one_that_weighs_nothing():
    parts = spread([TrainingSample((), advantage=1.0, failed=True)], 2)
    assert [(part[0].weight, part[0].failed) for part in parts] == [(1.0, True), (0.0, False)]
    with pytest.raises(ValueError, match="needs a sample"):
        spread([], 2)


def test_a_caller_that_does_not_know_the_word_is_sent_away():
    with PeerServer() as server:
        hosts, port, word = server.address
        found = []
        answering = threading.Thread(target=lambda: found.extend(server.answer([5])))
        answering.start()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
            stranger.sendall(b"x" * 32 + (5).to_bytes(4, "big"))  # says it is the process that is waited for
            assert stranger.recv(1) == b""
        peer = call(0, [["127.0.0.1"], port, word], 5)
        answering.join()
    assert "127.0.0.1" in hosts
    assert (peer.number, found[0].number) == (0, 5)
    for each in (peer, *found):
        each.connection.close()


def test_callers_that_say_nothing_or_little_keep_nobody_waiting(monkeypatch):
    monkeypatch.setattr(peers, "_MOST_CALLERS", 8)
    with PeerServer() as server, contextlib.ExitStack() as stack:
        _, port, word = server.address
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(30)]
        silent[-1].sendall(word[:1].encode())  # the first letter of the word, and no more
        found = []
        answering = threading.Thread(target=lambda: found.extend(server.answer([5, 6])))
        answering.start()
        called = [call(0, [["127.0.0.1"], port, word], number) for number in (6, 5)]
        answering.join()
        assert [peer.number for peer in found] == [5, 6]
        assert all(each.recv(1) == b"" for each in silent)  # sent away, the last of them at the end
        for each in (*called, *found):
            each.connection.close()


def test_a_hello_that_drips_is_given_so_long_as_a_whole(monkeypatch):
    monkeypatch.setattr(peers, "_TRY", 0.2)
    with PeerServer() as server:
        _, port, word = server.address
        told = []

        def answer():
            with pytest.raises(ConnectionError, match=r"\[5\] did not call within 1 s"):
                server.answer([5], patience=1.0)
            told.append(True)

        answering = threading.Thread(target=answer)
        answering.start()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.settimeout(0.05)
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 36:  # 1.8 s by itself
                    slow.sendall(word[:1].encode())
                    sent += 1
                    with contextlib.suppress(TimeoutError):
                        if slow.recv(1) == b"":
                            break
        answering.join()
        assert told == [True]
        assert sent < 12  # by the end of the server's patience, 20


def test_who_can_not_be_reached_is_named_with_the_places_that_were_tried():
    with PeerServer() as server:
        _, port, word = server.address
    with pytest.raises(ConnectionError, match=rf"process 2 can't reach process 7 at port {port} of 127\.0\.0\.1"):
        call(7, [["127.0.0.1"], port, word], 2)
