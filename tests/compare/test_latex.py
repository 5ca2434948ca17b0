from __future__ import annotations

from mmlab.compare.gather import gather
from mmlab.compare.latex import escape, latex
from tests.compare.made import result


def test_a_table_with_booktabs() -> None:
    runs = [
        *(result("MNL", seed, acc) for seed, acc in enumerate((0.5, 0.6))),
        *(result("Late_Fusion", seed, acc) for seed, acc in enumerate((0.4, 0.4))),
        result("QMF", 0, 0.1, test={"acc": 0.1}),
    ]
    text = latex(gather(runs, "test"))
    lines = text.splitlines()
    assert lines[0].startswith(r"% Needs \usepackage{booktabs}")
    start = lines.index(r"\begin{tabular}{lrrrr}")
    assert lines[start : start + 8] == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"method & seeds & fused & audio & image \\",
        r"\midrule",
        r"Late\_Fusion & 2 & \underline{$40.0 \pm 0.0$} & \underline{$20.0 \pm 0.0$} & $\mathbf{25.0 \pm 0.0}$ \\",
        r"MNL & 2 & $\mathbf{55.0 \pm 7.1}$ & $\mathbf{27.5 \pm 3.5}$ & $\mathbf{25.0 \pm 0.0}$ \\",
        r"QMF & 1 & $10.0$ & -- & -- \\",
        r"\bottomrule",
    ]
    assert r"\caption{AVDigits (hard), test acc in \%, 40 samples: mean $\pm$ standard deviation" in text
    assert "Not every method has the same seeds." in text, "the caption warns"
    assert r"\label{tab:avdigits-hard}" in text


def test_less_is_better_in_a_loss() -> None:
    runs = [result(name, test={"mae": mae}) for name, mae in (("A", 0.25), ("B", 0.5), ("C", 1.0))]
    text = latex(gather(runs, "test", "mae"))
    assert r"A & 1 & $\mathbf{0.250}$" in text
    assert r"B & 1 & \underline{$0.500$}" in text
    assert r"C & 1 & $1.000$" in text


def test_every_special_letter_is_escaped() -> None:
    assert escape("a_b%&#$~^{}\\<") == (
        r"a\_b\%\&\#\$\textasciitilde{}\textasciicircum{}\{\}\textbackslash{}\textless{}"
    )
    text = latex(gather([result("A_B", dataset="50% & more")], "test"))
    assert r"\caption{50\% \& more (hard)," in text
