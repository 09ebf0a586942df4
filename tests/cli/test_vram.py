"""`qwen35 vram`: both streams, exit codes, what is imported and how fast it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
import torch
from PIL import Image

from qwen35cli.app import load, vram
from qwen35cli.app.estimate import GIB, size
from qwen35cli.app.gpus import Gpu
from qwen35cli.checkpoint.names import VISION
from qwen35cli.checkpoint.write import write_checkpoint
from qwen35cli.cli import run
from qwen35cli.kernels import select
from tests.scripted import PATIENCE, environment
from tests.tiny import checkpoint_state, tiny_config, tiny_model


@pytest.fixture
def qwen35(capfdbinary, monkeypatch, tmp_path):
    """Run `qwen35 vram` on a machine without a GPU; exit code, stdout, stderr."""
    monkeypatch.setattr(vram, "has_driver", lambda: False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def call(*arguments):
        code = run(["vram", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


def test_the_table_ends_in_a_total_with_a_range(qwen35):
    code, out, err = qwen35("--ctx", "262144", "--gpu", "24GiB")
    assert (code, err) == (0, "")
    assert out.startswith("Qwen/Qwen3.5-4B · int4 weights · bf16 KV · 262,144 tokens\n")
    assert re.search(
        r"^KV cache: 262,144 × 32 KiB \(8 layers, bf16\) +8\.000 GiB  exact$", out, re.M
    )
    assert re.search(r"^CUDA context +256\.0 MiB  estimated, 100 – 550 MiB$", out, re.M)
    assert re.search(r"^log that tokens are taken back from +15\.0 MiB  exact$", out, re.M)
    assert re.search(r"^decode buffers \(132 SMs\) +18\.8 MiB  exact$", out, re.M)
    assert re.search(r"^total +11\.88 GiB  11\.\d\d – 12\.\d\d GiB$", out, re.M)
    assert "24 GiB, 24.00 GiB usable: fits, 12.12 GiB to spare" in out
    assert "\x1b" not in out


def test_without_a_gpu_the_needs_only(qwen35):
    code, out, err = qwen35("--ctx", "1M")
    assert code == 0
    assert "usable:" not in out
    assert "1,010,000 tokens" in out
    assert err.startswith("warning: 1,010,000 tokens are more than the 262,144")


def test_what_does_not_fit_is_said_and_exits_5(qwen35):
    code, out, err = qwen35("--ctx", "256k", "--gpu", "rtx 4060")
    assert code == 5
    assert "does not fit, 4.25 GiB missing" in out
    assert err == (
        "error: 262,144 tokens need 11.88 GiB, 7.63 GiB can be had on GeForce RTX 4060: 4.25 GiB "
        "are missing\nhint: --ctx 122624, or --kv-dtype int8 --ctx 240640\n"
    )


@pytest.mark.parametrize(
    "arguments", [("--kv-dtype", "int8", "--ctx", 240_640), ("--ctx", 122_624)]
)
def test_the_hints_work(qwen35, arguments):
    assert qwen35("--gpu", "rtx 4060", *arguments)[0] == 0


@pytest.mark.parametrize(
    ("model", "gpu", "hint"),
    [
        ("27B", "8G", "a larger GPU, or a smaller model: qwen35 vram 9B --ctx 20992"),
        ("4B", "1.5G", "a larger GPU, or a smaller model: qwen35 vram 0.8B --ctx 26368"),
        ("0.8B", "1G", "a larger GPU"),
        ("demo", "0.1G", "a larger GPU"),
    ],
)
def test_where_no_flag_helps_a_model_does_that_is_smaller_and_fits(qwen35, model, gpu, hint):
    code, _, err = qwen35(model, "--gpu", gpu)
    assert (code, err.partition("\nhint: ")[2]) == (5, f"{hint}\n")
    if "smaller" in hint:
        assert qwen35(*hint.partition("qwen35 vram ")[2].split(), "--gpu", gpu)[0] == 0


def test_json_is_one_object_with_the_promised_keys(qwen35):
    code, out, err = qwen35("--json", "--gpu", "8GB", "--ctx", "128k")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    promised = "model quant kv_dtype ctx parts total_bytes low_bytes high_bytes max_ctx gpus"
    assert {*promised.split(), "tokens_per_s"} <= found.keys()
    assert found["total_bytes"] == sum(part["bytes"] for part in found["parts"])
    assert found["ctx"] == 131_072
    assert found["max_ctx"] == 134_656
    assert found["fits"] is True
    assert {"name", "bytes", "exact"} <= found["parts"][0].keys()
    first = found["gpus"][0]
    assert (first["name"], first["usable_bytes"]) == ("8 GiB", 8 * GIB)
    assert first["headroom_bytes"] == 8 * GIB - found["total_bytes"]
    assert found["tokens_per_s"] is None  # of a size no bandwidth is known
    card = next(gpu for gpu in found["gpus"] if gpu["name"] == "GeForce RTX 4090")
    assert 0 < card["tokens_per_s"]["low"] < card["tokens_per_s"]["high"]


@pytest.mark.parametrize(
    ("card", "warning", "kernels"),
    [
        ("Tesla T4", "the fused kernels do not run on Tesla T4 (sm_75)", ["reference"]),
        ("7900 xtx", "no model runs on Radeon RX 7900 XTX", []),
    ],
)
def test_a_card_that_is_refused_has_a_size_and_no_speed(qwen35, card, warning, kernels):
    for view in ((), ("--compare",)):
        code, out, err = qwen35("--gpu", card, "--ctx", "8k", *view)
        assert code == 0
        assert err.startswith(f"warning: {warning}")
        assert not re.search(r"^.*(usable:.* tokens/s|int4 .*\d – \d)", out, re.M)
    found = json.loads(qwen35("--gpu", card, "--ctx", "8k", "--json")[1])
    assert (found["fits"], found["tokens_per_s"]) == (True, None)
    assert found["gpus"][0]["kernels"] == kernels
    assert {*map(tuple, (card["kernels"] for card in found["gpus"][1:]))} == {
        ("triton", "reference")
    }


def test_several_contexts_are_several_objects_and_one_that_does_not_fit_decides(qwen35):
    code, out, err = qwen35("--json", "--ctx", "8k,32k", "--ctx", "262144", "--gpu", "8GiB")
    assert [json.loads(line)["ctx"] for line in out.splitlines()] == [8_192, 32_768, 262_144]
    assert code == 5
    assert "262,144 tokens need" in err


def test_the_comparison_marks_what_fits(qwen35):
    code, out, _ = qwen35("--compare", "--gpu", "rtx 4060", "--ctx", "8k")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert len(rows) == 3 + 8
    assert rows[2][:3] == ["weights", "KV", "8,192"]
    assert rows[3][:4] == ["bf16", "bf16", "9.52", "✗"]
    assert rows[7][:4] == ["int4", "bf16", "4.13", "✓"]
    compared = json.loads(qwen35("--compare", "--gpu", "4060", "--json", "--ctx", "8k")[1])
    assert len(compared["compare"]) == 8 * 4


def test_the_comparison_says_at_which_context_its_speeds_are(qwen35):
    lines = qwen35("--compare", "--gpu", "4090", "--ctx", "128k")[1].splitlines()
    assert lines[1].split() == ["tokens/s"] and lines[2].endswith(" at 8,192")
    speed = re.search(r"; ([^;\n]*) tokens/s$", qwen35("--gpu", "4090", "--ctx", "8k")[1], re.M)
    assert lines[7].startswith("int4     bf16 ") and lines[7].endswith(f"  {speed[1]}")


def test_the_explanation_shows_the_figure_seen_elsewhere(qwen35):
    out = qwen35("--explain", "--ctx", "262144", "--gpu", "24GiB")[1]
    assert "8 · 2 · 4 · (256 · 2) · 262,144 · 1 = 8,589,934,592 bytes" in out
    assert "Tools that count all 32 show 32.00 GiB at 16 bits, 4 times the true 8.00 GiB." in out


def test_the_explanation_counts_every_sequence(qwen35):
    out = qwen35("--explain", "--ctx", "262144", "--batch", "2")[1]
    assert "8 · 2 · 4 · (256 · 2) · 262,144 · 2 = 17,179,869,184 bytes" in out
    assert "show 64.00 GiB at 16 bits, 4 times the true 16.00 GiB." in out


def test_the_formula_of_nf4_gives_the_bytes_that_are_counted(qwen35):
    out = qwen35("--explain", "--quant", "nf4")[1]
    weights, matrices = 32 * 3 * 2_560 * 9_216, 32 * 3
    assert f"{weights // 2 + 4 * weights // 64 + 64 * matrices:,}  MLP (nf4-b64)" in out
    assert "each nf4 one 64 for its values" in out


def test_pictures_parts_and_sequences_are_counted(qwen35):
    def total(*arguments):
        return json.loads(qwen35("--json", *arguments)[1])["total_bytes"]

    plain = total()
    assert plain - total("--no-vision") == pytest.approx(1.03 * 667_028_480, abs=2)
    assert total("--images", "1920x1080") - plain == pytest.approx(1.03 * 319 * 2**20, rel=0.01)
    assert total("--images", "1920x1080x3") == total("--images", "1920x1080")
    assert total("--mtp", "2") - plain > 120_000_000 + 131_072 * 4_096
    assert total("--batch", "2") - plain > 131_072 * 32_768 + 50_331_648
    assert total("--chunk", "2k") == plain
    assert total("--chunk", "1k") < plain < total("--chunk", "4k")
    assert total("--group", "128") < plain
    out = qwen35("--images", "4000x3000x2")[1]
    assert out.count("picture 4000 × 3000 → 1664 × 1248: 2,028 tokens\n") == 2
    err = qwen35("--images", "1920x1080x9999", "--ctx", "16k")[2]
    assert err.endswith("\nhint: fewer --images\n")
    code, _, err = qwen35("--images", "1920x1080x9", "--ctx", "16k")
    assert code == 0
    assert "the pictures alone are 18,360 tokens, the context 16,384" in err


def test_a_desktop_takes_its_share(qwen35):
    found = [
        json.loads(qwen35("--json", "--gpu", "4090", *more)[1])["gpus"][0]["usable_bytes"]
        for more in ((), ("--display",))
    ]
    assert found[0] - found[1] == vram.DISPLAY_BYTES


@pytest.mark.parametrize("name", ["9B", "Qwen3.5-9B", "qwen/qwen3.5-9b", "Qwen/Qwen3.5-9B"])
def test_the_sizes_have_short_names(qwen35, name):
    out = qwen35(name, "--json")[1]
    assert json.loads(out)["model"] == "Qwen/Qwen3.5-9B"
    assert qwen35("-m", name, "--json")[1] == out


def test_the_argument_counts_before_the_variable(qwen35, monkeypatch):
    monkeypatch.setenv("QWEN35_MODEL", "2B")
    assert json.loads(qwen35("--json")[1])["model"] == "Qwen/Qwen3.5-2B"
    for given in (("9B",), ("-m", "9B")):
        assert json.loads(qwen35(*given, "--json")[1])["model"] == "Qwen/Qwen3.5-9B"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "rtx 4091"], "no GPU 'rtx 4091' is known"),
        (["--gpu", "0GiB"], "0 GiB"),
        (["--ctx", "0"], "'0' is not a token count"),
        (["--ctx", "8k,,2k"], "'' is not a token count"),
        (["--ctx", "-5"], "'-5' is not a token count"),
        (["--ctx", "100M"], "is more than 16,777,216 tokens"),
        (["--chunk", "lots"], "'lots' is not a token count"),
        (["--batch", "0"], "'0' is not a whole number from 1 to 4,096"),
        (["--images", "0x0"], "'0x0' is not WIDTHxHEIGHT"),
        (["--images", "1920"], "'1920' is not WIDTHxHEIGHT"),
        (["--images", "30000x10"], "one side may be at most 200 times the other"),
        (["--images", "999999x999999"], "at most 20,000 a side and 50 megapixels are decoded"),
        (["--images", "10000x10000"], "at most 20,000 a side and 50 megapixels are decoded"),
        (["--images", "10x10", "--no-vision"], "there is no vision tower for the pictures"),
        (["--group", "48"], "'48' is not one of 32, 64, 128"),
        (["--group", "32", "--quant", "int8"], "int8 has no groups of weights"),
        (["demo", "--group", "32"], "bf16 has no groups of weights"),
        (["--mtp", "9"], "9 is not auto, off or a number from 1 to 4"),
        (["--plot", "memory.gif"], "memory.gif is neither .png nor .svg"),
        (["--plot", "/nowhere/memory.png"], "cannot write /nowhere/memory.png"),
        (["4B", "-m", "2B"], "the model is given twice"),
        (["--measure", "--ctx", "8k,16k"], "--measure takes one context"),
        (["--measure", "--group", "64"], "has no other groups"),
        (["--measure", "--gpu", "rtx 4090"], "--gpu plans for a card"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(qwen35, arguments, message):
    code, out, err = qwen35(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 2
    assert err.startswith("error: ")


def test_measuring_that_is_typed_counts_before_a_card_of_the_settings(qwen35, monkeypatch):
    monkeypatch.setenv("QWEN35_GPU", "rtx 4090")
    found = json.loads(qwen35("demo", "--measure", "--json", "--ctx", "1k")[1])
    assert found["gpu"] == "this machine's memory"


def test_a_revision_is_looked_for_and_not_passed_over(qwen35, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, message in (
        ("Qwen/Qwen3.5-4B", "error: Qwen/Qwen3.5-4B at abc is not in the local"),
        ("4B", "error: there is no model '4B'"),
        ("demo", "error: demo has no revisions"),
    ):
        code, out, err = qwen35(name, "--revision", "abc")
        assert code in (2, 3) and not out
        assert message in err


def test_an_unknown_model_is_exit_3(qwen35):
    code, out, err = qwen35("12B")
    assert (code, out) == (3, "")
    assert "there is no model '12B'" in err


def test_a_size_that_is_not_here_cannot_be_measured(qwen35, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, out, err = qwen35("4B", "--measure", "--ctx", "1k")
    assert (code, out) == (3, "")
    assert err.startswith(
        "error: Qwen/Qwen3.5-4B is not in the local Hugging Face cache\nhint: qwen35 pull"
    )


def test_no_gpu_where_one_is_asked_for_is_exit_4(qwen35, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = qwen35("--gpu", "auto")
    assert (code, out) == (4, "")
    assert err.startswith("error: there is no usable GPU here\nhint: --gpu NAME")


def test_the_gpu_that_is_here_is_asked_for_its_free_memory(qwen35, monkeypatch):
    monkeypatch.setattr(vram, "has_driver", lambda: True)
    monkeypatch.setattr(vram, "present", lambda required: Gpu("My Card", 6 * GIB, 300.0))
    code, out, _ = qwen35("--ctx", "8k")
    assert code == 0
    assert "My Card, 6.00 GiB usable: fits" in out


def test_this_machines_memory(qwen35, monkeypatch):
    monkeypatch.setattr("qwen35cli.app.device.free_bytes", lambda device: 16 * GIB)
    found = json.loads(qwen35("--gpu", "cpu", "--json")[1])
    assert found["gpu"] == "this machine's memory"
    assert [part["label"] for part in found["parts"] if part["name"] == "runtime"] == [
        "Python, torch, tokenizer"
    ]


@pytest.mark.parametrize("target", ["cpu", "GTX 1060"])
def test_the_table_of_cards_is_that_of_cards_whatever_is_asked_about(qwen35, target):
    cards = json.loads(qwen35("--json")[1])["gpus"]
    beside = json.loads(qwen35("--gpu", target, "--ctx", "8k", "--json")[1])["gpus"][1:]
    assert [card["max_ctx"] for card in beside] == [card["max_ctx"] for card in cards]
    shown = [qwen35("--ctx", "8k", *more)[1] for more in ((), ("--gpu", target))]
    assert len({re.search("GeForce RTX 3070 .*", each)[0].rstrip() for each in shown}) == 1


def test_the_comparison_counts_only_what_the_files_hold(qwen35, tmp_path):
    """Where the config promises a tower, text runs, and no format has more than the files."""
    raw = tiny_config()
    state = checkpoint_state(tiny_model(raw, dtype=torch.bfloat16))
    text = {name: tensor for name, tensor in state.items() if not name.startswith(VISION)}
    write_checkpoint(tmp_path, text, raw)
    rows = json.loads(qwen35(tmp_path, "--ctx", "1k", "--compare", "--json")[1])["compare"]
    for quant in ("bf16", "int8", "int4", "nf4"):
        alone = json.loads(qwen35(tmp_path, "--ctx", "1k", "--quant", quant, "--json")[1])
        compared = next(row for row in rows if (row["quant"], row["ctx"]) == (quant, 1_024))
        assert compared["total_bytes"] == alone["total_bytes"]


def test_a_folder_is_summed_from_its_headers(qwen35, checkpoint, tmp_path):
    whole = json.loads(qwen35(checkpoint, "--json", "--mtp", "2")[1])
    assert whole["quant"] == "bf16"
    weights = ("embedding", "mlp", "delta_net", "attention", "small", "vision", "mtp")
    found = sum(part["bytes"] for part in whole["parts"] if part["name"] in weights)
    stored = load.open_checkpoint(load.resolve(checkpoint).folder)
    assert found == stored.nbytes
    target = tmp_path / "small"
    assert run(["quantize", checkpoint, "--format", "int4", "-o", str(target)]) == 0
    qwen35()  # takes what that printed
    before, after = (
        json.loads(qwen35(*arguments, "--json")[1])
        for arguments in ((checkpoint, "--quant", "int4"), (target,))
    )
    assert before["parts"] == after["parts"]
    code, _, err = qwen35(target, "--quant", "int8")
    assert (code, "is quantized already, as int4" in err) == (2, True)


def test_pictures_are_cut_as_the_folder_says(qwen35, checkpoint):
    """As `ask -i` would: this one takes at most 64 x 64 pixels, where the 4B takes 4096 x 4096."""
    arguments = ("--images", "1024x512", "--json")
    assert json.loads(qwen35(*arguments)[1])["images"][0]["tokens"] == 512
    assert json.loads(qwen35(checkpoint, *arguments)[1])["images"] == [
        {"size": [1024, 512], "resized": [64, 32], "patches": 8, "tokens": 2}
    ]
    smaller = qwen35(checkpoint, *arguments, "--image-max-tokens", "1")
    assert json.loads(smaller[1])["images"][0]["resized"] == [32, 32]
    assert qwen35(checkpoint, *arguments, "--no-vision")[0] == 2


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_what_does_not_fit_is_refused_by_the_same_estimate_before_loading(
    command, capfdbinary, monkeypatch
):
    def start(*more):
        with Path(os.devnull).open() as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            arguments = ["--model", "demo", "--device", "cpu", "--ctx", "8k", "--mtp", "off"]
            code = run([command, *arguments, *more, "Hello"])
        return code, *(stream.decode() for stream in capfdbinary.readouterr())

    def loaded(*arguments, **options):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(load, "load", loaded)
    options = vram.VramOptions(model="demo", ctx=(8_192,), gpu="cpu", vision=False)
    needed = vram.answer(options)[0].estimate
    monkeypatch.setattr(load, "free_bytes", lambda device: needed.total - 2**20)
    code, out, err = start()
    assert (code, out) == (5, "")
    assert err == (
        f"error: a context of 8,192 tokens needs {size(needed.total)} with the weights; "
        f"{size(needed.total - 2**20)} are free on cpu, 1.0 MiB are missing\n"
        "hint: --kv-dtype int8, or --ctx 6144\n"
    )
    assert "the weights were read" in start("--kv-dtype", "int8")[2]  # fits: it goes on
    assert "the weights were read" in start("--ctx", "6144")[2]


def test_a_gpu_is_refused_by_the_estimate_that_vram_shows(capfdbinary, monkeypatch):
    """Here with the kernels of the interpreter: nothing gets as far as running them."""
    kernels = select(torch.device("cpu"), "triton")
    monkeypatch.setattr(load, "choose_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(load, "select", lambda *_, **__: kernels)
    monkeypatch.setattr(load, "free_bytes", lambda device: 2**40)
    asked = load.LoadOptions(model="demo", ctx=8_192, pictures=False)
    opened = load.open_model(asked)
    options = vram.VramOptions(model="demo", ctx=(8_192,), gpu="24GiB", vision=False)
    needed = vram.answer(options)[0].estimate
    assert opened.estimate.parts == needed.parts
    assert {"replay_log", "decode_buffers"} <= {part.name for part in needed.parts}
    monkeypatch.setattr(load, "free_bytes", lambda device: needed.total - 2**20)
    for command in ("ask", "chat"):
        with Path(os.devnull).open() as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            code = run([command, "--model", "demo", "--ctx", "8k", "--mtp", "off", "Hello"])
        out, err = (stream.decode() for stream in capfdbinary.readouterr())
        assert (code, out) == (5, "")
        assert err.startswith(
            f"error: a context of 8,192 tokens needs {size(needed.total)} with the weights; "
            f"{size(needed.total - 2**20)} are free on cuda, 1.0 MiB are missing\n"
        )


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot_is_a_picture(qwen35, tmp_path, suffix):
    path = tmp_path / f"memory.{suffix}"
    code, out, err = qwen35("--plot", path, "--gpu", "rtx 4060", "--ctx", "8k")
    assert code == 0
    assert out.startswith("Qwen/Qwen3.5-4B")
    assert err == f"drawn into {path}\n"
    if suffix == "png":
        with Image.open(path) as picture:
            assert picture.size == (1350, 900)
    else:
        text = path.read_text()
        assert text.startswith("<?xml")
        assert "<!-- GeForce RTX 4060 -->" in text
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [path.name]


def test_a_plot_goes_where_a_link_leads(qwen35, tmp_path):
    path = tmp_path / "link.svg"
    path.symlink_to("memory.svg")
    assert qwen35("--plot", path)[0] == 0
    assert path.is_symlink()
    assert [each.name for each in sorted(tmp_path.iterdir())] == ["link.svg", "memory.svg"]


def test_a_plot_that_cannot_be_written_leaves_the_old_one(qwen35, tmp_path, monkeypatch):
    path = tmp_path / "memory.png"
    path.write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", _disk_full)
    code, _, err = qwen35("--plot", path)
    assert (code, path.read_bytes()) == (2, b"old")
    assert "No space left on device" in err


def _disk_full(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_the_real_model_is_close_to_its_estimate(qwen35):
    code, out, err = qwen35("demo", "--measure", "--json", "--ctx", "1k", "--mtp", "1")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["gpu"] == "this machine's memory"
    found = answer["measured"]
    assert found["parts"][-1]["predicted_bytes"] == answer["total_bytes"]
    parts = {part["name"]: part for part in found["parts"]}
    assert list(parts)[-1] == "total"
    total = parts["total"]
    assert found["residue_bytes"] == total["measured_bytes"] - total["predicted_bytes"]
    # The test's own process holds more than a fresh one: only the rest can be compared.
    rest = ("weights", "caches", "activations")
    assert sum(parts[name]["measured_bytes"] for name in rest) < 100 * 2**20
    assert total["measured_bytes"] > parts["weights"]["predicted_bytes"]


def test_a_picture_is_read_where_one_is_measured(qwen35):
    arguments = ("demo", "--measure", "--json", "--ctx", "1k")
    for more in (("--images", "64x64x2", "--images", "300x300"), ("--chunk", "1k")):
        code, out, err = qwen35(*arguments, *more)
        assert code == 0, err
        answer = json.loads(out)
        assert answer["measured"]["parts"][-1]["predicted_bytes"] == answer["total_bytes"]
    code, _, err = qwen35("demo", "--measure", "--images", "300x300", "--ctx", "40")
    assert (code, "a picture of 36 tokens does not fit a context of 40" in err) == (2, True)


def test_measuring_shows_a_table_of_both(qwen35):
    code, out, err = qwen35("demo", "--measure", "--ctx", "1k")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "demo · 1,024 tokens · measured on this machine's CPU"
    assert lines[1].split() == ["predicted", "measured", "difference"]
    assert [line.split()[0] for line in lines if line][-2:] == ["total", "residue:"]


def test_what_else_is_asked_for_comes_behind_what_was_measured(qwen35):
    for flag, line in (("--compare", "weights  KV "), ("--explain", "KV cache = layers with")):
        code, out, err = qwen35("demo", "--measure", "--ctx", "1k", flag)
        assert code == 0, err
        measured, _, behind = out.partition("\nresidue: ")
        assert "predicted" in measured and f"\n{line}" in behind


# -- as a process ----------------------------------------------------------------------------------


def _process(*arguments, **more):
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        **more,
    )


def test_a_named_card_needs_no_torch():
    done = _process("-X", "importtime", "-m", "qwen35cli", "vram", "--gpu", "rtx 4090", "--json")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "qwen35cli.app.estimate" in imported
    assert not imported & {"torch", "numpy", "matplotlib", "huggingface_hub", "PIL"}


def test_a_script_gets_its_answer_at_once():
    """In half a second; on a slow machine in five times the time of the help, which is bound to be
    quick. Importing torch alone takes longer than either."""

    def least(*arguments):
        """Seconds of the processor, of the best of three."""
        times = []
        for _ in range(3):
            start = os.times()
            assert _process("-m", "qwen35cli", *arguments).returncode == 0
            end = os.times()
            user = end.children_user - start.children_user
            times.append(user + end.children_system - start.children_system)
        return min(times)

    assert least("vram", "--gpu", "24GiB", "--json") < max(0.5, 5 * least("--help"))


def on_a_terminal(columns, *arguments):
    """What a terminal so wide shows of the command, without its colours; and its exit code."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "qwen35cli", "vram", "--gpu", "rtx 4060", *arguments],
        env=environment(TERM="xterm-256color"),
        dimensions=(60, columns),
        timeout=PATIENCE,
        encoding="utf-8",
    )
    out = child.read()
    child.close()
    return re.sub(r"\x1b\[[0-9;]*m", "", out), child.exitstatus


@pytest.mark.parametrize(("columns", "charted"), [(120, True), (80, True), (60, False)])
def test_a_chart_stands_under_the_table_where_the_width_allows(columns, charted):
    out, code = on_a_terminal(columns, "--ctx", "8k")
    assert code == 0
    assert ("█" in out) == charted
    assert all(len(line) <= columns for line in out.splitlines())


@pytest.mark.parametrize("columns", [80, 60, 44])
@pytest.mark.parametrize("view", [[], ["--compare"]])
def test_no_figure_is_cut_on_a_narrow_terminal(qwen35, view, columns):
    """Each is there as in a pipe, which has all the room it wants: in a row of its own."""
    arguments = ["--ctx", "8k", *view]
    out, _ = on_a_terminal(columns, *arguments)
    assert "…" not in out
    assert all(len(line) <= columns for line in out.splitlines())
    piped = qwen35("--gpu", "rtx 4060", *arguments)[1]
    first = "weights " if view else "GPU, memory"
    rows = piped[piped.index(first) :].splitlines()[1:]
    for row in rows:
        name, *figures = re.split(r"  +", row)
        lines = [line for line in out.splitlines() if line.startswith(name)]
        assert all(any(figure in line for line in lines) for figure in figures), row
    assert (len(out.split(first)) == 2) == (columns == 80)


def test_a_narrow_terminal_gets_the_range_of_the_total():
    out, _ = on_a_terminal(50, "--ctx", "8k")
    assert re.search(r"^CUDA context +256\.0 MiB  estimated *\r?$", out, re.M)
    assert re.search(r"^at least +3\.801 GiB\s+^at most +4\.709 GiB *\r?$", out, re.M)
