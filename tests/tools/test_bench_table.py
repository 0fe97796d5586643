"""The table says what the numbers say: the best row in bold, and a NO where a claim fails."""

import bench_table


def row(width, solver, task, kl, error=0.5):
    scores = {"top-1 off %": task, "KL": kl, "rel. error %": error}
    return {"width": width, "solver": solver, "scores": scores, "bytes": 2_000_000, "solve_seconds": 1.0}


def results(*rows, first_last="int8"):
    record = {
        "float": {"top-1 off %": 0.0, "KL": 0.0, "rel. error %": 0.0},
        "bytes": 8_000_000,
        "facts": {"test": "10 crops"},
        "task": "top-1 off %",
        "primary": "KL",
        "higher_is_better": False,
        "compare_task": True,
        "remark": "near",
        "survey_seconds": 2.0,
        "rows": list(rows),
    }
    settings = {"first_last": first_last, "block_size": "channel", "symmetric": True, "limit": None}
    return {"settings": settings, "models": {"efficientnet-lite0": record}, "skipped": {"vit": "no file"}}


def test_the_best_row_is_bold_and_the_claims_hold():
    text = bench_table.markdown(results(row(4, "rtn", 80.0, 2.0), row(4, "comq", 8.0, 0.2)))
    assert "| **W4 comq** | **8** | **0.2** |" in text
    assert "W4: comq is best by KL (0.2; next rtn 2): yes" in text
    assert "W4: top-1 off % is 0.100 of rtn's, at most 0.3: yes" in text
    assert "NO" not in text
    assert "vit: skipped, no file" in text


def test_a_claim_that_fails_says_no():
    text = bench_table.markdown(
        results(row(4, "rtn", 10.0, 0.1), row(4, "gptq", 4.0, 0.04), row(4, "comq", 5.0, 0.05))
    )
    assert "W4: comq is best by KL (0.05; next gptq 0.04): NO" in text
    assert "W4: top-1 off % is 0.500 of rtn's, at most 0.3: NO" in text
    assert "| **W4 gptq** |" in text


def test_eight_bits_are_held_to_float_and_not_to_the_rivals():
    text = bench_table.markdown(results(row(8, "rtn", 0.1, 0.001), row(8, "comq", 0.9, 0.002, error=1.5)))
    assert "W8: relative output error 1.5 % is at most 1 %: NO; " in text
    assert "top-1 off % within 0.5 point of float (+0.90): NO" in text
    assert "best" not in text


def test_a_task_score_where_higher_is_better():
    made = results(row(3, "rtn", 70.0, 0.3), row(3, "comq", 75.0, 0.2), first_last="same")
    made["models"]["efficientnet-lite0"]["higher_is_better"] = True
    text = bench_table.markdown(made)
    assert "W3: comq is best by top-1 off % (75; next rtn 70): yes" in text
    assert "of rtn's" not in text


def test_task_scores_as_good_as_float_are_a_tie_but_fidelity_never_is():
    made = results(row(4, "gptq", 0.1, 0.1), row(4, "comq", 0.3, 0.2), first_last="same")
    text = bench_table.markdown(made)
    assert "comq is best by top-1 off % (0.3; next gptq 0.1): a tie, both within 0.5 point of float" in text
    assert "comq is best by KL (0.2; next gptq 0.1): NO" in text


def test_a_task_score_that_cannot_rank_is_shown_and_not_compared():
    made = results(row(4, "rtn", 3.0, 0.3), row(4, "comq", 5.0, 0.2))
    made["models"]["efficientnet-lite0"]["compare_task"] = False
    text = bench_table.markdown(made)
    assert "| W4 rtn | 3 | 0.3 |" in text
    assert "best by top-1" not in text


def test_the_summary_has_a_line_for_each_width_and_the_best_in_bold():
    found = results(
        row(8, "rtn", 1.0, 0.01),
        row(8, "comq", 0.5, 0.02),
        row(4, "rtn", 80.0, 2.0),
        row(4, "comq", 8.0, 0.2),
    )
    lines = bench_table.summary(found["models"]).splitlines()
    assert lines[0] == "| distance to float | rtn | comq |"
    assert lines[2] == "| efficientnet-lite0 W8, KL | **0.01** | 0.02 |"
    assert lines[3] == "| efficientnet-lite0 W4, KL | 2 | **0.2** |"
    assert lines[-1] == "| efficientnet-lite0, top-1 off % | 0 | 1 | 0.5 | 80 | 8 |  |  |  |  |"
