"""What a person sees: MLflow's own UI in a real browser."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from hpt_dist.tracking import tracker as track
from hpt_dist.tracking.tracker import DatasetInput, RunIdentity, Tracker, page_of

STEPS = 40
READ = DatasetInput(
    name="domainnet/sketch/train",
    digest="a" * 64,
    uri="s3://bucket/hpt/datasets/domainnet/sketch",
    images=70_386,
    classes=126,
    context="training",
)
RUN_NAMES = "[col-id='attributes.`Run Name`']"
NAMES = f"""
return [...document.querySelectorAll("{RUN_NAMES} a")].map(link => link.textContent)
"""
CURVES = """
return [...document.querySelectorAll(".js-plotly-plot")].flatMap(plot => plot.data)
    .filter(curve => curve.metricHistory?.length)
    .map(curve => [curve.metricHistory[0].key, curve.x, curve.y])
"""


@pytest.fixture(scope="module")
def experiment(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A launch with two trials; returns the experiment's id."""
    folder = tmp_path_factory.mktemp("work")
    launch = RunIdentity(experiment="real_to_sketch", name="launch 1", key="launch-1")
    parent = track.open_parent(mlflow_server, launch)
    for name in ("hpt", "mme-shots-1"):
        identity = RunIdentity(
            experiment="real_to_sketch",
            name=name,
            key=name,
            parent_run_id=parent,
            description=f"What **{name}** is.",
            datasets=(READ,),
        )
        tracker = Tracker(folder / name, identity, mlflow_server, resume_step=0)
        for step in range(1, STEPS + 1):
            tracker.log(step, {"train/loss": 1 / step, "train/lr": 0.1})
        tracker.finish("FINISHED", 60)

    def describe(experiment_id: str, run_id: str) -> str:
        return f"It **helped**: [report.md]({page_of(experiment_id, run_id, 'report.md')})"

    files = {"report.md": b"The whole report."}
    track.log_parent(mlflow_server, parent, artifacts=files, describe=describe)
    track.set_status(mlflow_server, parent, "FINISHED")
    found = MlflowClient(mlflow_server).get_experiment_by_name("real_to_sketch")
    assert found
    return str(found.experiment_id)


@pytest.mark.services
def test_the_run_table_shows_a_launch_and_its_trials(
    mlflow_server: str, experiment: str, chromium: webdriver.Chrome
):
    def names(driver: webdriver.Chrome) -> set[str]:
        return set(driver.execute_script(NAMES))

    wait = WebDriverWait(chromium, 60)
    chromium.get(f"{mlflow_server}/{page_of(experiment)}")
    wait.until(lambda driver: names(driver) == {"launch 1"})
    chromium.find_element(By.CSS_SELECTOR, f"{RUN_NAMES} button").click()
    wait.until(lambda driver: names(driver) == {"launch 1", "hpt", "mme-shots-1"})
    assert "Evaluation runs" not in chromium.find_element(By.TAG_NAME, "body").text


@pytest.mark.services
def test_a_launchs_page_has_its_verdict_with_links_and_a_trials_page_what_it_reads(
    mlflow_server: str, experiment: str, chromium: webdriver.Chrome
):
    def text(driver: webdriver.Chrome) -> str:
        return str(driver.find_element(By.TAG_NAME, "body").text)

    def shows(*words: str) -> None:
        WebDriverWait(chromium, 60).until(lambda driver: all(w in text(driver) for w in words))
        assert "Evaluation runs" not in text(chromium)

    client = MlflowClient(mlflow_server)
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}
    chromium.get(f"{mlflow_server}/{page_of(experiment, runs['hpt'])}")
    shows("What hpt is.", READ.name, "Training")
    chromium.get(f"{mlflow_server}/{page_of(experiment, runs['launch 1'])}")
    shows("It helped: report.md")
    # A click would open it beside this page, and charts of a page behind another are not drawn.
    chromium.get(str(chromium.find_element(By.LINK_TEXT, "report.md").get_attribute("href")))
    shows("The whole report.")


@pytest.mark.services
def test_a_trials_page_plots_its_metrics_by_step(
    mlflow_server: str, experiment: str, chromium: webdriver.Chrome
):
    [run] = MlflowClient(mlflow_server).search_runs([experiment], "tags.`hpt.key` = 'hpt'")
    page = f"experiments/{experiment}/runs/{run.info.run_id}/model-metrics"
    chromium.get(f"{mlflow_server}/#/{page}")
    wait = WebDriverWait(chromium, 60)
    wait.until(lambda driver: len(driver.execute_script(CURVES)) >= 2)
    curves = {name: (steps, values) for name, steps, values in chromium.execute_script(CURVES)}
    assert curves.keys() == {"train/loss", "train/lr"}
    steps, values = curves["train/loss"]
    assert steps == list(range(1, STEPS + 1))
    assert values == pytest.approx([1 / step for step in steps])
    text = chromium.find_element(By.TAG_NAME, "body").text
    assert "hpt (train/loss)" in text
