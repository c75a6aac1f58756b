"""A report of 3,200 utterances and five members: processor time, and the size of the page.

python benchmarks/report.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from abhinaya.pipeline.stages.report import ReportSettings, run_report


def main() -> None:
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / "helpers")]
    from report_chains import write_report_chain

    with tempfile.TemporaryDirectory() as folder:
        run = write_report_chain(Path(folder), n_utts=3_200, n_members=5, n_features=1_024)
        for turn in ("first, with imports", "again"):
            begin = time.process_time()
            run_report([str(run)], ReportSettings())
            print(f"{turn}: {time.process_time() - begin:.1f} s of processor time")
        print(f"page: {(run / 'report.html').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
