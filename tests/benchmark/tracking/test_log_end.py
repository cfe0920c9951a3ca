"""The end of a log that leaves the machine."""

from __future__ import annotations

from tissuebench.tracking.log_end import end_of_log, without_secrets


def test_secrets_of_the_environment_and_of_urls_are_left_out(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "feedc0de" * 5)
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("HF_TOKEN", "1")  # no secret is this short, and it would stand everywhere
    monkeypatch.setenv("HARMLESS", "as it was said")
    text = f"key {'feedc0de' * 5}, hunter2hunter2!, 11 steps, as it was said\nGET https://me:pw@host.org/x?y"
    assert without_secrets(text) == "key ***, ***!, 11 steps, as it was said\nGET https://***@host.org/x?y"


def test_a_long_log_begins_with_a_whole_line(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    lines = end_of_log(log).splitlines()
    assert lines[-1] == "line 19999"
    assert 5_000 < len(lines) < 10_000
    assert all(line.startswith("line ") for line in lines)


def test_no_log_is_an_empty_end(tmp_path):
    assert end_of_log(tmp_path / "log.txt") == ""
