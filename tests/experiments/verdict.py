"""What a run of an experiment must have for its verdict."""

import io

from gradlab.experiments.registry import EXPERIMENTS


def borne_out(name, run):
    """All claims hold but those that are known not to, and there are a table and a picture."""
    one = EXPERIMENTS[name]
    checks = one.checks(run)
    assert [check.claim for check in checks if check.holds != check.expected] == []
    assert len({len(cells) for cells in one.table(run).values()}) == 1
    one.draw(run).figure.savefig(io.BytesIO())
