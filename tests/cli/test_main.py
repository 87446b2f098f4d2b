import subprocess
import sys
from types import SimpleNamespace

import pytest

from posttrain.cli import main as command_line
from posttrain.errors import PosttrainError
from posttrain.recipe.faults import KINDS


def command(monkeypatch, execute):
    monkeypatch.setattr(
        command_line.importlib, "import_module", lambda name: SimpleNamespace(arguments=lambda p: None, execute=execute)
    )
    return command_line.main(["run"])


def test_help_imports_neither_torch_nor_pydantic_and_names_every_command():
    script = (
        "import sys; from posttrain.cli.main import main; code = main(['--help']);"
        "heavy = {'torch', 'pydantic', 'transformers', 'yaml', 'rich', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert all(name in told.stdout for name in command_line.COMMANDS)


def test_help_answers_at_once():
    """0.3 s of processor time: the wall clock of a shared machine would measure its neighbours."""
    import resource

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        subprocess.run([sys.executable, "-m", "posttrain.cli", "--help"], capture_output=True, check=True)
        times.append(spent() - before)
    assert min(times) <= 0.3, times


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_command_explains_itself_without_torch(name):
    script = f"""
import sys
from posttrain.cli.main import main
try:
    main([{name!r}, "--help"])
except SystemExit:
    pass
sys.exit("torch" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert f"posttrain {name}" in told.stdout


def test_an_unknown_command_names_the_nearest(capsys):
    assert command_line.main(["evalute"]) == 2
    assert "'evaluate'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(PosttrainError("recipe.yaml:3: no"), 2), (KeyboardInterrupt(), 130), (command_line.Terminated(), 143)],
)
def test_failures_are_one_message_without_a_traceback(monkeypatch, capsys, error, code):
    def execute(args):
        raise error

    assert command(monkeypatch, execute) == code
    told = capsys.readouterr().err
    assert told.strip() and "Traceback" not in told
    assert str(error) in told


def test_a_defect_keeps_its_traceback(monkeypatch):
    def execute(args):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command(monkeypatch, execute)


def test_stages_lists_every_kind(capsys):
    assert command_line.main(["stages"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in told} == set(KINDS)
    assert all(len(line.split()) > 3 for line in told)  # each with its one-line story


def test_report_prints_the_run_s_report(tmp_path, capsys):
    (tmp_path / "report.md").write_text("# 57.1 ± 2.0\n")
    assert command_line.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "# 57.1 ± 2.0\n"
    assert command_line.main(["report", str(tmp_path / "none")]) == 2
    (tmp_path / "report.md").unlink()
    assert command_line.main(["report", str(tmp_path)]) == 2
    assert "no report yet" in capsys.readouterr().err


def test_compare_refuses_to_print_fewer_than_no_changes(tmp_path, capsys):
    assert command_line.main(["compare", str(tmp_path), str(tmp_path), "--changes", "-1"]) == 2
    assert "--changes -1: how many are printed, 0 or more." in capsys.readouterr().err


def test_recipe_check_names_a_fault_with_its_line(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("stages:\n  world:\n    kind: synthesize\n    stf: 3\n")
    assert command_line.main(["recipe", "check", str(path)]) == 2
    assert "a.yaml:4: stages.world.stf: unknown key. Did you mean 'sft'?" in capsys.readouterr().err
    path.write_text("stages:\n  world: {kind: synthesize}\n")
    assert command_line.main(["recipe", "check", str(path)]) == 0


def test_a_dry_run_shows_the_graph_and_writes_nothing(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("device: cpu\nstages:\n  world: {kind: synthesize}\n")
    assert command_line.main(["run", str(path), "--dry-run", "--runs", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert "world" in told and "would run" in told and "1 would run" in told
    assert not (tmp_path / "runs").exists()


def test_one_real_stage_runs_through_the_command_line_and_is_not_run_twice(tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "device: cpu\nthreads: 1\nstages:\n  world: {kind: synthesize, sft: 3, preference_prompts: 2, rlvr: 2}\n"
    )
    arguments = ["run", str(path), "--runs", str(tmp_path / "runs")]
    assert command_line.main(arguments) == 0
    assert "1 of 1 stages ran" in capsys.readouterr().out
    assert command_line.main(arguments) == 0
    assert "0 of 1 stages ran" in capsys.readouterr().out
    [rows] = (tmp_path / "runs" / "tiny" / "world").glob("*/sft.jsonl")
    assert len(rows.read_text().splitlines()) == 3


def test_verify_judges_a_file(tmp_path, capsys):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"response": "So 6 x 7 is 42.", "label": "42"}\n{"response": "41", "ground_truth": "42"}\n')
    assert command_line.main(["verify", "--verifier", "gsm8k", "--workers", "1", str(path)]) == 0
    told = capsys.readouterr()
    assert [line.split('"')[3] for line in told.out.splitlines()] == ["correct", "wrong"]
    assert "2 responses: 1 correct, 1 wrong" in told.err


def test_verify_reads_the_labels_that_are_lists_as_published(tmp_path, capsys):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"response": "f = abs", "ground_truth": ["assert f(-1) == 1"]}\n')
    assert command_line.main(["verify", "--verifier", "code", "--workers", "1", "--seconds", "60", str(path)]) == 0
    told = capsys.readouterr().out
    assert '"correct"' in told or "the sandbox cannot isolate" in told


def test_verify_names_a_bad_row_and_an_unknown_verifier(tmp_path, capsys):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"response": "42"}\n')
    assert command_line.main(["verify", "--verifier", "gsm8k", str(path)]) == 2
    assert "responses.jsonl:1" in capsys.readouterr().err
    assert command_line.main(["verify", "--verifier", "gsm8", str(path)]) == 2
    assert "gsm8k" in capsys.readouterr().err


def test_verifiers_are_listed_with_modes_and_versions(capsys):
    assert command_line.main(["verifiers"]) == 0
    told = capsys.readouterr().out
    assert "gsm8k" in told and "tulu3 (1), strict (3)" in told
    assert command_line.main(["verifiers", "--instructions"]) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()) == 86 and "count:countries  N  (inexact" in told


def test_setup_says_what_is_there_and_fails_with_a_way_out(data_dir, tmp_path, capsys, monkeypatch):
    import nltk

    monkeypatch.setenv("NLTK_DATA", str(data_dir / "nltk_data"))
    assert command_line.main(["setup"]) == 0
    assert capsys.readouterr().out.count("there already") == 3
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setattr(nltk.data, "path", [])
    asked = []
    monkeypatch.setattr(nltk, "download", lambda name, **given: asked.append((name, given["download_dir"])))
    assert command_line.main(["setup", "--to", str(tmp_path)]) == 2
    assert asked == [("punkt_tab", str(tmp_path))]
    assert "NLTK could not fetch punkt_tab" in capsys.readouterr().err


def test_convert_makes_a_model_folder_and_chat_answers_with_it(tmp_path, data_dir, capsys, monkeypatch):
    import io

    source = data_dir / "stories260K"
    folder = tmp_path / "model"
    assert (
        command_line.main(
            ["convert", "llama2c", str(source / "stories260K.bin"), str(source / "tok512.bin"), str(folder)]
        )
        == 0
    )
    assert (folder / "model.safetensors").is_file()
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon a time\n/new\n\nHello\n/exit\nnot read\n"))
    capsys.readouterr()
    chat = ["chat", str(folder), "--chat-template", "tulu", "--max-tokens", "8", "--temperature", "0"]
    assert command_line.main(chat) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
