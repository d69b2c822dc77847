"""Every command that README shows is run in CI, most of them by tests/readme.py."""

import readme
import shown


def test_every_command_is_run_there_or_elsewhere():
    whole = [c for c in readme.commands() if c not in readme.ELSEWHERE]
    assert {c.split()[1] for c in whole} >= {"pretrain", "evaluate", "report", "export"}
    assert all(c.startswith("jaxpt ") for c in whole), whole
    mentioned = {str(c) for c in shown.commands((shown.ROOT / "README.md").read_text())}
    assert set(readme.ELSEWHERE) <= mentioned  # nothing that README no longer shows


def test_ci_runs_them_where_only_the_wheel_is_installed():
    script = (shown.ROOT / "scripts" / "check_wheel.sh").read_text()
    assert 'PATH="$HERE/whole/bin:$PATH" python "$OLDPWD/tests/readme.py"' in script
    assert "check_wheel.sh" in (shown.ROOT / ".ci" / "run").read_text()
