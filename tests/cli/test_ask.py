"""Whole calls in this process, with a scripted model: exact bytes of both streams, exit codes."""

import errno
import io
import json
import os
import re
import shutil
import signal
import sys

import pytest
from PIL import Image

from qwen35cli.app import load
from qwen35cli.cli import run, terminal
from tests import fakes

THINKING = [["two and two", "</think>", "\n\nFour."]]


class Call:
    """Runs the command and keeps what it wrote."""

    def __init__(self, monkeypatch, capfdbinary):
        self._monkeypatch, self._capture = monkeypatch, capfdbinary
        self.loads = 0

    def __call__(self, *arguments, turns=(["Hello."],), stdin=None, ctx=4_096, thinking=False):
        opened = fakes.fake_opened(ctx=ctx, thinking=thinking)

        def load_weights(opened, **parts):
            self.loads += 1
            loaded = fakes.fake_loaded(opened, turns)
            self.decoder = loaded.runner
            return loaded

        self._monkeypatch.setattr(load, "open_model", lambda options, make: opened)
        self._monkeypatch.setattr(load, "load", load_weights)
        read, write = os.pipe()
        with os.fdopen(write, "wb") as pipe:
            pipe.write(stdin or b"")
        null = os.open(os.devnull, os.O_RDONLY)
        with os.fdopen(null if stdin is None else read, encoding="utf-8") as file:
            self._monkeypatch.setattr("sys.stdin", file)
            code = run(arguments)
        os.close(read if stdin is None else null)
        out, err = self._capture.readouterr()
        return code, out, err.decode()

    def prompt(self):
        """What the model read last, control tokens spelled out."""
        tokenizer = fakes.ByteTokenizer()
        ids = self.decoder.prompts[-1].ids
        return b"".join(tokenizer.token_bytes(token) for token in ids).decode()


@pytest.fixture
def call(monkeypatch, capfdbinary):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return Call(monkeypatch, capfdbinary)


# -- stdout is the answer ------------------------------------------------------------------------


def test_stdout_is_the_answer_and_one_newline(call):
    assert call("ask", "hi") == (0, b"Hello.\n", "")


def test_newlines_of_the_answer_stay_and_one_is_added(call):
    assert call("ask", "hi", turns=[["a\n\n"]])[1] == b"a\n\n\n"


def test_a_character_split_over_tokens_comes_out_whole(call):
    assert call("ask", "hi", turns=[["grün 🦆"]])[1] == "grün 🦆\n".encode()


def test_thinking_goes_to_stderr(call):
    code, out, err = call("ask", "hi", turns=THINKING, thinking=True)
    assert (code, out) == (0, b"Four.\n")
    assert err.startswith("two and two\nthought 11 tokens, ")
    assert "\x1b" not in err


@pytest.mark.parametrize("flag", ["--hide-thinking", "-q"])
def test_thinking_is_not_shown_when_hidden(call, flag):
    assert call("ask", "hi", flag, turns=THINKING, thinking=True) == (0, b"Four.\n", "")


def test_a_literal_think_tag_in_the_answer_is_text(call):
    assert call("ask", "hi", turns=[["a <", "/think> b"]])[1] == b"a </think> b\n"


@pytest.mark.parametrize(
    "payload",
    ["\x1b]52;c;aGk=\x07", "\x1b[2J", "\x9b31m", "a\rb", "a\bb", "\u202eabc", "\x1b[6n"],
)
@pytest.mark.parametrize("channel", ["answer", "thinking"])
def test_no_control_characters_reach_a_stream(call, payload, channel):
    turns = [[payload]] if channel == "answer" else [[payload, "</think>", "ok"]]
    _, out, err = call("ask", "hi", turns=turns, thinking=channel == "thinking")
    shown = out.decode() + err
    assert not [c for c in shown if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"]
    assert "\u202e" not in shown


def test_raw_keeps_control_characters_in_a_pipe(call):
    assert call("ask", "hi", "--raw", turns=[["\x1b[1mx"]])[1] == b"\x1b[1mx\n"


def test_rich_markup_and_emoji_codes_are_text(call):
    text = "[/b] [link=x]y[/link] :smile:"
    assert call("ask", "hi", turns=[[text]])[1] == text.encode() + b"\n"


def test_no_stream_gives_the_same_bytes(call):
    assert call("ask", "hi", "--no-stream", turns=[["a\x1bb"]])[1] == "a\ufffdb\n".encode()


# -- what is said to the model ---------------------------------------------------------------------


def test_stdin_comes_before_the_prompt(call):
    call("ask", "q", stdin=b"piped\n\n")
    assert "user\npiped\n\nq<|im_end|>" in call.prompt()


def test_files_come_before_stdin_under_their_names(call, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("noted\n")
    call("ask", "q", "-f", str(path), stdin=b"piped")
    assert f"user\nFile: {path}\nnoted\n\npiped\n\nq<|im_end|>" in call.prompt()


@pytest.mark.parametrize("arguments", [(), ("ask",), ("ask", "-"), ("chat",)])
def test_a_pipe_alone_is_the_prompt(call, arguments):
    assert call(*arguments, stdin=b"piped") == (0, b"Hello.\n", "")
    assert "user\npiped<|im_end|>" in call.prompt()


def test_bare_p_asks(call):
    assert call("-p", "q") == (0, b"Hello.\n", "")
    assert "user\nq<|im_end|>" in call.prompt()


def test_control_tokens_in_text_stay_text(call):
    call("ask", "<|im_end|></think><|image_pad|>", "-s", "<|im_start|>")
    added = [token for token in call.decoder.prompts[-1].ids if token >= 256]
    names = [fakes.LITERALS[token - 256] for token in added]
    assert names == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>", "<think>", "</think>"]


def test_no_think_and_think_choose_how_the_prompt_ends(call):
    call("ask", "q", "--no-think", thinking=True)
    assert call.prompt().endswith("<think>\n\n</think>\n\n")
    call("ask", "q", "--think", turns=THINKING)
    assert call.prompt().endswith("assistant\n<think>\n")


def png():
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    return file.getvalue()


def test_pictures_are_told_with_their_cost(call, tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(png())
    code, out, err = call("ask", "what?", "-i", str(path), "-i", "-", stdin=png())
    assert (code, out) == (0, b"Hello.\n")
    assert err == (
        f"image 1: {path} 40×40 → 32×32 · 1 token\nimage 2: stdin 40×40 → 32×32 · 1 token\n"
    )
    pad = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"user\n{pad}{pad}what?<|im_end|>" in call.prompt()


def test_a_file_url_is_decoded(call, tmp_path):
    path = tmp_path / "Überblick 1%.png"
    path.write_bytes(png())
    for url in (path.as_uri(), path.as_uri().replace("file:///", "file://localhost/")):
        code, _, err = call("ask", "what?", "-i", url)
        assert (code, err.split(" 40×40")[0]) == (0, f"image 1: {path}")


# -- JSON, files, endings --------------------------------------------------------------------------


def test_json_is_one_line_with_the_documented_keys(call):
    code, out, err = call("ask", "hi", "--json", "--seed", "7", turns=THINKING, thinking=True)
    assert (code, err, out.count(b"\n")) == (0, "", 1)
    result = json.loads(out)
    assert result["answer"] == "Four."
    assert result["reasoning"] == "two and two"
    assert result["finish_reason"] == "stop"
    assert result["thinking"] == {"tokens": 11, "closed_by": "model"}
    assert result["usage"]["completion"] == 5
    assert result["seed"] == 7
    assert result["sampling"]["presence_penalty"] == 1.5
    assert set(result) >= {
        *("answer", "data", "reasoning", "finish_reason", "thinking", "usage", "timings"),
        *("model", "revision", "quant", "kv_dtype", "ctx", "seed", "sampling"),
    }
    assert set(result["usage"]) == {"prompt", "cached", "image", "reasoning", "completion"}
    assert set(result["timings"]) == {
        *("load_s", "first_token_s", "prefill_tok_s", "decode_tok_s", "total_s"),
    }


def test_json_keeps_the_exact_text_and_shows_no_control_character(call):
    _, out, _ = call("ask", "hi", "--json", turns=[["\x1b\x9b\u202eü"]])
    assert json.loads(out)["answer"] == "\x1b\x9b\u202eü"
    assert not {"\x1b", "\x9b", "\u202e"} & set(out.decode())
    assert "ü" in out.decode()


def test_stream_json_gives_pieces_then_the_result(call):
    _, out, err = call("ask", "hi", "--stream-json", turns=[["a", "</think>", "b"]], thinking=True)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == {"type": "reasoning", "text": "a"}
    assert lines[1] == {"type": "answer", "text": "b"}
    assert lines[2]["type"] == "result"
    assert lines[2]["answer"] == "b"
    assert err == ""


def test_stream_json_says_that_it_failed(call):
    turns = [["a", fakes.FAIL]]
    code, out, err = call("ask", "hi", "--stream-json", turns=turns)
    assert code == 5
    assert json.loads(out.splitlines()[-1]) == {
        "type": "error",
        "message": "memory ran out",
        "hint": "--ctx 1k",
    }
    assert err == "error: memory ran out\nhint: --ctx 1k\n"


def test_o_writes_what_stdout_would_have_had(call, tmp_path):
    path = tmp_path / "answer.txt"
    assert call("ask", "hi", "-o", str(path)) == (0, b"", "")
    assert path.read_bytes() == b"Hello.\n"
    assert list(tmp_path.iterdir()) == [path]


def test_o_keeps_the_old_file_when_the_answer_breaks_off(call, tmp_path):
    path = tmp_path / "answer.txt"
    path.write_text("old")
    code, out, err = call("ask", "hi", "-o", str(path), turns=[["new", fakes.FAIL]])
    assert (code, out) == (5, b"")
    assert path.read_text() == "old"
    assert (tmp_path / "answer.txt.partial").read_text() == "new\n"
    assert f"the part so far is in {path}.partial" in err


def test_o_writes_into_a_pipe_that_is_there(call, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as reader:
        assert call("ask", "hi", "-o", str(path)) == (0, b"", "")
        assert reader.read() == "Hello.\n"
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_o_writes_into_a_pipe_without_a_name(call):
    read, write = os.pipe()
    assert call("ask", "hi", "-o", f"/dev/fd/{write}") == (0, b"", "")
    os.close(write)
    with os.fdopen(read) as reader:
        assert reader.read() == "Hello.\n"


def test_o_into_a_pipe_ends_quietly_when_its_reader_goes(call):
    read, write = os.pipe()
    os.close(read)
    assert call("ask", "hi", "-o", f"/dev/fd/{write}") == (141, b"", "")
    os.close(write)


@pytest.mark.parametrize("exists", [True, False])
def test_o_replaces_what_a_link_points_to(call, tmp_path, exists):
    link, folder = tmp_path / "link", tmp_path / "folder"
    folder.mkdir()
    link.symlink_to("folder/answer.txt")
    if exists:
        (folder / "answer.txt").write_text("old")
    assert call("ask", "hi", "-o", str(link)) == (0, b"", "")
    assert link.is_symlink()
    assert (folder / "answer.txt").read_text() == "Hello.\n"
    assert list(folder.iterdir()) == [folder / "answer.txt"]


def test_o_refuses_a_link_to_itself(call, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(link)
    code, _, err = call("ask", "hi", "-o", str(link))
    assert (code, err.splitlines()[0]) == (
        2,
        f"error: cannot write {link}: Too many levels of symbolic links",
    )


@pytest.mark.parametrize("length", [250, 255])
def test_o_takes_any_name_that_a_file_can_have(call, tmp_path, length):
    path = tmp_path / ("a" * length)
    assert call("ask", "hi", "-o", str(path)) == (0, b"", "")
    assert path.read_bytes() == b"Hello.\n"


def test_a_part_that_cannot_be_called_partial_is_named(call, tmp_path):
    path = tmp_path / ("a" * 255)
    _, _, err = call("ask", "hi", "-o", str(path), turns=[["new", fakes.FAIL]])
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "new\n"
    assert f"the part so far is in {left}\n" in err


def test_o_refuses_a_name_that_no_file_can_have(call, tmp_path):
    path = tmp_path / ("a" * 300)
    code, _, err = call("ask", "hi", "-o", str(path))
    assert (code, call.loads) == (2, 0)
    assert err.startswith(f"error: cannot write {path}: File name too long\n")


class FullDisk(io.FileIO):
    """A file on a disk with room for four bytes."""

    def write(self, data):
        if room := 4 - self.tell():
            return super().write(data[:room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_of_and_leaves_the_part_beside_the_file(call, tmp_path, monkeypatch):
    def opened(descriptor, mode="r", **how):
        if mode != "w":
            return fdopen(descriptor, mode, **how)
        return io.TextIOWrapper(io.BufferedWriter(FullDisk(descriptor, mode)), **how)

    path, fdopen = tmp_path / "a.txt", os.fdopen
    monkeypatch.setattr(os, "fdopen", opened)
    code, _, err = call("ask", "hi", "-o", str(path))
    assert code == 1
    assert err == (
        f"the part so far is in {path}.partial\n"
        f"error: could not write {path}: No space left on device\n"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt.partial"]
    assert (tmp_path / "a.txt.partial").read_bytes() == b"Hell"


def test_a_folder_that_goes_away_meanwhile_is_told_of(call, tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.txt"
    path.parent.mkdir()

    def prefill(*arguments, **how):
        shutil.rmtree(path.parent, ignore_errors=True)
        return plain(*arguments, **how)

    plain = fakes.ScriptedDecoder.prefill
    monkeypatch.setattr(fakes.ScriptedDecoder, "prefill", prefill)
    code, _, err = call("ask", "hi", "-o", str(path))
    assert (code, err) == (1, f"error: could not write {path}: No such file or directory\n")


PLAN = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_dry_run_shows_the_prompt_and_loads_nothing(call):
    code, out, err = call("ask", "hi", "--dry-run")
    assert (code, out.decode(), call.loads) == (0, PLAN + "\n", 0)
    assert err.splitlines()[-2:] == [
        "       27  in all, of 4,096: 4,069 left to answer",
        "        0  read before and saved; 27 would be read",
    ]


def test_a_dry_run_writes_where_the_answer_would_go(call, tmp_path):
    path = tmp_path / "answer.txt"
    path.write_text("old")
    code, out, _ = call("ask", "hi", "--dry-run", "-o", str(path))
    assert (code, out, path.read_text()) == (0, b"", PLAN + "\n")


@pytest.mark.parametrize("how", ["--json", "--stream-json"])
def test_a_dry_run_in_json_is_one_object(call, how):
    code, out, err = call("ask", "hi", "--dry-run", how)
    assert (code, err, call.loads) == (0, "", 0)
    plan = json.loads(out)
    assert sum(part["tokens"] for part in plan.pop("parts")) == 27
    assert plan == {"prompt": PLAN, "tokens": 27, "cached": 0, "ctx": 4_096, "left": 4_069}


def test_max_tokens_counts_the_answer_only_and_warns(call):
    turns = [["a long thought", "</think>", "\n\nabcdef"]]
    code, out, err = call("ask", "q", "--max-tokens", "3", "-q", turns=turns, thinking=True)
    assert (code, out, err) == (0, b"abc\n", "")
    _, _, err = call("ask", "q", "--max-tokens", "3", turns=[["abcdef"]])
    assert err == "warning: the answer was stopped at 3 tokens\nhint: --max-tokens 6\n"


def test_a_limit_behind_the_last_of_the_json_does_no_harm(call):
    given = ("ask", "q", "--max-tokens", "1", "--json", "--schema")
    code, out, err = call(*given, '{"const": 5}', turns=[["5"]])
    assert (code, json.loads(out)["data"], err) == (0, 5, "")
    code, out, err = call(*given, '{"type": "integer"}', turns=[["5"]])
    assert (code, json.loads(out)["data"]) == (7, None)
    assert err.startswith("error: the answer stopped at 1 token inside the JSON")


def test_no_json_for_a_schema_is_told_with_what_helps(call):
    def told(*flags, **given):
        code, _, err = call("ask", "q", "-q", "--schema", '{"type": "string"}', *flags, **given)
        assert code == 7
        return err

    err = told(turns=[["a thought"]], thinking=True)
    assert err == (
        "error: the model ended inside its thinking: there is no answer to satisfy the schema\n"
        "hint: --no-think\n"
    )
    long = [['"' + "abc " * 99]]
    assert told(turns=long, ctx=120).endswith("hint: a larger --ctx\n")
    thought = [["why", "</think>", "\n\n", *long[0]]]
    assert told(turns=thought, ctx=400, thinking=True).endswith(", or --no-think\n")


def test_json_held_to_a_schema_is_no_markdown(call, monkeypatch):
    monkeypatch.setattr(terminal, "_is_terminal", lambda stream: stream is sys.stdout)
    answer = json.dumps({"a": "**b** `c` __init__ [d](e)"})
    assert b"**" not in call("ask", "q", turns=[[answer]])[1]
    assert call("ask", "q", "--schema", "a", turns=[[answer]])[1] == f"{answer}\n".encode()


def test_a_full_context_is_named(call):
    code, out, err = call("ask", "q", ctx=40, turns=[["x" * 99]])
    assert code == 0
    assert out.startswith(b"xxx")
    assert err == "warning: the context of 40 tokens is full\nhint: --ctx 80\n"


def test_ending_inside_the_thinking_is_named(call):
    code, out, err = call("ask", "q", turns=[["hm"]], thinking=True)
    assert (code, out) == (0, b"\n")
    assert "warning: the model ended inside its thinking: there is no answer" in err


def test_stats_follow_the_answer(call):
    _, _, err = call("ask", "hi", "--stats")
    assert err.startswith("cached 0 · new 27 · answer 6 · first token ")
    stats, memory = err.splitlines()
    assert stats.endswith(" of 4,096")
    assert re.fullmatch(r"memory \S+ [MG]iB at most, \S+ MiB estimated for \d+ tokens", memory)


def test_the_same_seed_reports_itself_and_others_are_drawn(call):
    seeds = {json.loads(call("ask", "hi", "--json")[1])["seed"] for _ in range(3)}
    assert len(seeds) > 1


# -- Ctrl-C ----------------------------------------------------------------------------------------


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(call):
    turns = [["begun", fakes.CTRL_C, "!", "never"]]
    assert call("ask", "q", turns=turns) == (130, b"begun!\n", "(interrupted)\n")


def test_ctrl_c_while_the_prompt_is_read_stops_after_the_chunk(call):
    turns = [[fakes.CTRL_C, "never"]]
    assert call("ask", "q" * 200, turns=turns) == (130, b"", "(interrupted)\n")
    assert call.decoder.length == 64


def test_ctrl_c_under_json_still_gives_the_object(call):
    code, out, _ = call("ask", "q", "--json", turns=[["begun", fakes.CTRL_C, "!", "never"]])
    assert code == 130
    result = json.loads(out)
    assert (result["answer"], result["finish_reason"]) == ("begun!", "interrupted")


def test_ctrl_c_leaves_the_part_beside_the_file(call, tmp_path):
    path = tmp_path / "a.txt"
    turns = [["begun", fakes.CTRL_C, "!", "never"]]
    code, _, err = call("ask", "q", "-o", str(path), turns=turns)
    assert code == 130
    assert err == f"(interrupted)\nthe part so far is in {path}.partial\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt.partial"]
    assert (tmp_path / "a.txt.partial").read_bytes() == b"begun!\n"


def test_another_ctrl_c_while_the_part_is_put_away_changes_nothing(call, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    monkeypatch.setattr(os, "fsync", lambda descriptor: signal.raise_signal(signal.SIGINT))
    turns = [["begun", fakes.CTRL_C, "!", "never"]]
    code, _, err = call("ask", "q", "-o", str(path), turns=turns)
    assert (code, err) == (130, f"(interrupted)\nthe part so far is in {path}.partial\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt.partial"]


def test_a_picture_that_is_far_too_narrow_is_named(call, tmp_path):
    path = tmp_path / "thin.png"
    Image.new("RGB", (2_010, 10)).save(path)
    code, _, err = call("ask", "what?", "-i", str(path))
    assert code == 2
    assert err.startswith(f"error: {path}: the picture has 2,010 × 10 pixels; one side may be")


# -- refusals: two lines, an exit code, nothing loaded ---------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (["chta"], None, 2, "no such command 'chta'. Did you mean 'chat'?"),
        (["-m", "demo", "chat"], None, 2, "got unexpected extra argument(s) (chat)"),
        (["ask", "hi", "--tmp", "1"], None, 2, "no such option: --tmp"),
        (["ask", "hi", "--ctx", "3z"], None, 2, "'3z' is not a token count"),
        (["ask", "hi", "--temp", "-1"], None, 2, "'-1' is not a number from 0 to 100"),
        (["ask", "hi", "--json", "--stream-json"], None, 2, "exclude each other"),
        (["ask", "hi", "-p", "ho"], None, 2, "the prompt is given twice"),
        (["ask", "   "], None, 2, "there is nothing to answer"),
        (["ask"], b"", 2, "there is nothing to answer"),
        (["ask", "-"], None, 2, "there is nothing to answer"),
        (["ask", "hi"], b"abc\xffdef", 2, "stdin is not UTF-8: byte 0xff at offset 3"),
        (["ask", "hi"], b"abc\0def", 2, "stdin is binary: a zero byte at offset 3"),
        (["ask", "hi"], b"\x89PNG\r\n\x1a\n", 2, "stdin is a picture, not text"),
        (["ask", "hi", "-i", "-"], None, 2, "nothing is piped in"),
        (["ask", "hi", "-i", "no.png"], None, 2, "no image at no.png"),
        (["ask", "hi", "-i", "https://x.org/a.png"], None, 2, "is a URL"),
        (["ask", "hi", "-i", "file://server/a.png"], None, 2, "a file on another machine, server"),
        (["ask", "hi", "-i", "file:///no/a%20b.png"], None, 2, "no image at /no/a b.png"),
        (["ask", "hi", "-f", "no.txt"], None, 2, "no file at no.txt"),
        (["ask", "hi", "-f", "/"], None, 2, "/ is a folder, not a text file"),
        (["ask", "hi", "-f", "/dev/zero"], None, 2, "/dev/zero is a device, not a text file"),
        (["ask", "hi", "-o", "/no/such/folder/x"], None, 2, "cannot write /no/such/folder/x"),
        (["ask", "hi", "-o", "/"], None, 2, "/ is a folder"),
    ],
)
def test_refused_before_the_weights_are_read(call, arguments, stdin, code, message):
    actual, out, err = call(*arguments, stdin=stdin)
    assert (actual, out, call.loads) == (code, b"", 0)
    error, *hint = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert message in error
    assert len(hint) <= 1
    assert "Traceback" not in err


def test_a_prompt_longer_than_the_context_is_refused_with_numbers(call):
    code, out, err = call("ask", "x" * 5_000)
    assert (code, out, call.loads) == (6, b"", 0)
    assert err == (
        "error: the prompt has 5,025 tokens, the context 4,096: 929 too many, "
        "before any room to answer; nothing was cut\nhint: --ctx 6049 fits\n"
    )


def test_an_unforeseen_error_is_one_line_unless_asked(call, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr(fakes.ScriptedDecoder, "prefill", broken)
    code, _, err = call("ask", "hi")
    assert code == 1
    assert err == "error: RuntimeError: boom\nhint: this is a bug; -v shows where it happened\n"
    assert "Traceback" in call("ask", "hi", "-v")[2]


def test_an_error_in_a_file_name_cannot_move_the_cursor(call):
    _, _, err = call("ask", "hi", "-f", "a\x1b[2J\nb")
    assert "\x1b" not in err
    assert err.count("\n") == 2


def test_help_and_version(call):
    code, out, _ = call()
    assert code == 0
    assert b"Exit codes:" in out
    assert call("--version")[:2] == (0, b"qwen35 0.1.0\n")


def test_a_variable_sets_a_flag(call, monkeypatch):
    monkeypatch.setenv("QWEN35_THINK", "0")
    call("ask", "q", thinking=True)
    assert call.prompt().endswith("</think>\n\n")


def test_output_folder_stays_clean_after_a_refusal(call, tmp_path):
    call("ask", "x" * 5_000, "-o", str(tmp_path / "a.txt"))
    assert list(tmp_path.iterdir()) == []
