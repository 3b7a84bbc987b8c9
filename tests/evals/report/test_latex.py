from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evals.report.latex import escape, latex
from evals.report.text import markdown


def stats(difference: float, p: float) -> dict[str, Any]:
    against = {"difference": difference, "interval": [difference - 2, difference + 2], "p": p, "p_holm": p}
    return {"interval": [1, 2], "against": {**against, "gained": 1, "lost": 2, "loyalty": 90.0}}


@pytest.fixture
def compared(document: dict[str, Any]) -> dict[str, Any]:
    """The small document with statistics: fastv differs by more than chance, the others do not."""
    for cell in document["cells"]:
        if cell["method"] != "vanilla":
            cell["stats"] = stats(-4.25, 0.001 if cell["method"] == "fastv" else 0.5)
    return document


def test_special_characters_are_set_as_they_are() -> None:
    assert escape("50% of a_b & {x} ± ~^$#\\") == (
        r"50\% of a\_b \& \{x\} $\pm$ \textasciitilde{}\textasciicircum{}\$\#\textbackslash{}"
    )


def test_every_line_of_a_table_has_its_fields_and_every_environment_its_end(compared: dict[str, Any]) -> None:
    text = latex(compared)
    for body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        columns, lines = len(body[0]), body[1].strip().splitlines()
        for line in lines:
            if line.endswith(r"\\") and "multicolumn" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 2
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    code = [line for line in text.splitlines() if not line.startswith("%")]
    assert all(line.isascii() for line in code)


def test_ranks_and_significance_are_marked(compared: dict[str, Any]) -> None:
    text = latex(compared)
    assert r"\textbf{" in text and r"\underline{" in text
    fastv = [line for line in text.splitlines() if re.search(r"& fastv\S* &", line)]
    assert any("$^{*}$" in line for line in fastv)
    others = [line for line in text.splitlines() if "& vanilla &" in line]
    assert not any("$^{*}$" in line for line in others)
    assert "differs from vanilla by more than chance" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_it_compiles(compared: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "t.tex").write_text(latex(compared))
    main = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{t}\\end{document}"
    (tmp_path / "main.tex").write_text(main)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_differences_and_flips_have_tables_of_their_own(compared: dict[str, Any]) -> None:
    compared["cells"][1]["stats"] = {"interval": [1, 2], "yes_ratio": 61.25}
    text = markdown(compared)
    assert "## Differences from vanilla, with 95 % intervals" in text
    assert "| mini | fastv-7 | -4.2 \\[-6.2, -2.2] \\* | -4.2 \\[-6.2, -2.2] \\* |" in text
    assert "| mini | random-7 | -4.2 \\[-6.2, -2.2] |" in text
    assert "| mini | fastv-7 | +1 -2, 90 % | +1 -2, 90 % | - |" in text
    assert "| mini | vanilla | - | - | 61.2 |" in text
    assert "after Holm's correction for 5 comparisons" in text


def test_a_score_whose_answers_look_wrong_is_marked(document: dict[str, Any]) -> None:
    document["cells"][2]["warnings"] = ["all 500 answers are the same"]
    text = markdown(document)
    assert "60.0 (!)" in text and "mini/fastv-7/gqa: all 500 answers are the same" in text
