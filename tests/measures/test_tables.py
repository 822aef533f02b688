"""Tables in print: exact text, nothing lost between summary and page."""

import pandas as pd

from ies_helpers.measures.evaluation import headline, latex, markdown, rank_methods, standings, summarise_measures
from tests.measures.test_ranking import NAN, table


def test_a_headline_has_a_row_a_group_and_counts_what_is_lost() -> None:
    measures = pd.concat([table({"m": [0.1, 0.3, NAN]}), table({"m": [0.000123, 0.000123, 0.000123]}, "complexity")])
    rows = headline(summarise_measures(measures)).set_index("group")
    assert rows.columns.tolist() == ["network", "method", "maps", "energy ↑", "complexity ↓"]
    assert rows.loc["all"].tolist() == ["unet", "m", "3", "0.200 ± 0.141 (1 NaN)", "1.2e-04 ± 0.000"]
    assert rows.loc["FN"].tolist() == ["unet", "m", "1", "0.300", "1.2e-04"]


def test_a_method_without_a_measure_has_a_dash() -> None:
    measures = pd.concat([table({"m": [0.5], "n": [0.5]}), table({"m": [0.25]}, "road")])
    rows = headline(summarise_measures(measures)).set_index(["method", "group"])
    assert rows["ROAD ↑"].loc[[("m", "all"), ("n", "all")]].tolist() == ["0.250", "–"]


def test_standings_tell_rank_interval_and_the_lack_of_one() -> None:
    rows = standings(rank_methods(table({"a": [0.25, 0.25], "b": [0.5, 0.5]})))
    assert rows.iloc[0].tolist() == ["unet", "energy", "1", "b", "0.500", "0.500 to 0.500", "100%", "2"]
    nothing = standings(rank_methods(table({"a": [NAN], "b": [0.5]})))
    assert nothing.iloc[0].tolist()[2:] == ["–", "a", "–", "–", "–", "0"]


def test_markdown_by_hand() -> None:
    assert markdown(pd.DataFrame({"a": ["x|y", "1"], "long": ["2", ""]})) == (
        "| a    | long |\n| ---- | ---- |\n| x\\|y | 2    |\n| 1    |      |\n"
    )


def test_latex_by_hand_with_what_it_would_read_otherwise() -> None:
    text = latex(pd.DataFrame({"rank ↑": ["grad_cam++ & 5 %"], "b": ["1 ± 2–\\3 ^~"]}))
    assert text == (
        "\\begin{tabular}{ll}\n\\hline\nrank $\\uparrow$ & b \\\\\n\\hline\n"
        "grad\\_cam++ \\& 5 \\% & 1 $\\pm$ 2--\\textbackslash{}3 "
        "\\textasciicircum{}\\textasciitilde{} \\\\\n\\hline\n\\end{tabular}\n"
    )


def test_numbers_have_three_decimals_down_to_a_thousandth() -> None:
    told = standings(rank_methods(table({"a": [0.001, 0.001], "b": [0.0009996, 0.0009996]})))
    assert told["mean"].tolist() == ["0.001", "1.0e-03"]
