"""docs/rules.md says what the code says."""

import re

import rules_table

from comq_onnx.targets.rules import RULES


def test_the_page_is_current() -> None:
    assert rules_table.PAGE.read_text(encoding="utf-8") == rules_table.page(), (
        "run: python tools/rules_table.py"
    )


def test_every_rule_has_one_row_that_names_its_targets() -> None:
    rows = [line.split(" | ") for line in rules_table.page().splitlines()]
    rows = {row[0].removeprefix("| "): row for row in rows if "-" in row[0] and len(row) == 5}
    told = [(target, rule) for rule, row in rows.items() for target in row[2].split(", ")]
    assert sorted(told) == sorted((t, rule.id) for t, rules in RULES.items() for rule in rules)
    for rules in RULES.values():
        for rule in rules:
            assert rows[rule.id][1] == rule.severity
    assert len(rows) == len(re.findall(r"^\| [A-Z]+-[EWN]\d+ ", rules_table.page(), re.MULTILINE))


def test_each_target_has_its_counts() -> None:
    for target, rules in RULES.items():
        counts = [sum(rule.severity == s for rule in rules) for s in ("error", "warning", "note")]
        assert f"| {target} | {' | '.join(map(str, counts))} |" in rules_table.page()
