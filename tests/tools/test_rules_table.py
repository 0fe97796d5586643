"""docs/rules.md says what the code says."""

import rules_table

from comq_onnx.targets.rules import RULES


def test_the_page_is_current() -> None:
    assert rules_table.PAGE.read_text(encoding="utf-8") == rules_table.page(), (
        "run: python tools/rules_table.py"
    )


def test_every_rule_of_every_target_has_a_row() -> None:
    page = rules_table.page()
    for target, rules in RULES.items():
        assert f"`--target {target}`" in page
        for rule in rules:
            assert page.count(f"| {rule.id} |") == 1
