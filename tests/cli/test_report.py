def test_a_report_is_written_and_named(folder, gradlab_command):
    assert gradlab_command("sweep", "sweep.yaml").exit_code == 0
    result = gradlab_command("report", "runs/sweep")
    assert (result.exit_code, result.output) == (0, "runs/sweep/report.html\n")
    page = (folder / "runs/sweep/report.html").read_text("utf-8")
    assert '"title":"quadratic: 8 trials"' in page and "optimizer.nesterov: [true, false]" in page


def test_a_report_goes_elsewhere_in_silence(folder, gradlab_command):
    assert gradlab_command("sweep", "sweep.yaml").exit_code == 0
    result = gradlab_command("report", "runs/sweep", "--out", "page.html", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert (folder / "page.html").exists() and not (folder / "runs/sweep/report.html").exists()


def test_what_cannot_be_reported_is_refused(folder, gradlab_command):
    for name in ("runs/none", "sweep.yaml"):
        result = gradlab_command("report", name)
        assert result.exit_code == 2 and f"{name} holds no sweep" in result.output
    unfinished = folder / "runs/half/unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "plan.json").write_text("{}")
    result = gradlab_command("report", "runs/half")
    assert result.exit_code == 2 and "holds a sweep that is not done" in result.output


def test_a_report_that_cannot_be_written_leaves_nothing(folder, gradlab_command):
    assert gradlab_command("sweep", "sweep.yaml").exit_code == 0
    result = gradlab_command("report", "runs/sweep", "--out", "missing/page.html")
    assert result.exit_code == 2 and "missing/page.html" in result.output
    assert not (folder / "missing").exists()
