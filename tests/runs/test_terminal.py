from hypereyes_jax.runs.terminal import visible


def test_nothing_steers_the_terminal():
    assert visible("a\x1b[31mb\rc\x07") == "a\\x1b[31mb\\rc\\x07"
    assert visible("\u202eabc\ud83d") == "\\u202eabc\\ud83d"
    assert visible("two\nlines\té 旗") == "two\nlines\té 旗"
