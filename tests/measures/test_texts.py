"""Tables of texts: the printed one with its units mended, and means with their spread."""

import pandas as pd
import pytest

from glora_lib.measures.texts import METRICS, printed, scores


def test_table_3_as_printed_and_in_numbers():
    table = printed()
    assert len(table) == 8
    assert table.loc["FT Wq,Wv", ["printed (M)", "millions"]].tolist() == pytest.approx([48.0, 50.331648])
    assert table.loc["LoRA", ["printed (M)", "millions"]].tolist() == pytest.approx([0.4, 0.393216])
    assert table.loc["SuperLoRA", "BLEU"] == 69.82
    assert list(table.columns) == ["printed (M)", "millions", *METRICS.values()]


def test_means_and_spreads_over_seeds():
    common = {"held_out_loss": 1.0, "n_beam_1": 24}
    rows = [{"method": "LoRA_r=4", "seed": seed, "trained": 7, "bleu_beam_1": 50.0 + seed} | common for seed in range(3)]
    rows.append({"method": "base", "seed": 0, "trained": 0, "bleu_beam_1": 3.0} | common)
    table = scores(pd.DataFrame(rows), 1)
    assert table["setting"].tolist() == ["LoRA r=4", "base"]
    assert table["BLEU"].tolist() == ["51.00 ± 1.00", "3.00"]
    assert table["seeds"].tolist() == [3, 1]
    assert scores(pd.DataFrame(rows), 10).empty
