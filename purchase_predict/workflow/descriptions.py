"""The descriptions of runs and models on MLflow's pages, in Markdown: the outcome, and links to related pages."""

from collections.abc import Iterable, Mapping, Sequence

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from purchase_predict.errors import printable
from purchase_predict.workflow.addresses import (
    ModelUri,
    RunUri,
    artifact_page,
    model_page,
    page,
    parse,
    registry_page,
    version_page,
)
from purchase_predict.workflow.artifacts import TAG_LENGTH
from purchase_predict.workflow.completed import ERROR
from purchase_predict.workflow.models import run_if_there
from purchase_predict.workflow.trials import finished_below

#: Path of the report among the artifacts of a train run.
REPORT = "report.html"


def of_step(run: Run, summary: str, source: str, inputs: Mapping[str, str], output: str, files: Iterable[str]) -> str:
    """The description of a step's run.

    Args:
        run: the run of the step, read after the step logged its models.
        summary: what the step did, in a sentence.
        source: where the data comes from; empty: not known.
        inputs: the URI of each input that another step made, by the input's name.
        output: the path of the artifact that the next step takes.
        files: the paths of the run's artifacts.
    """
    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    links = [f"[{name}]({_page_of(experiment_id, uri)})" for name, uri in inputs.items()]
    lines = [f"made from: {', '.join(links)}"] if links else []
    made = []
    if REPORT in files:
        made.append(f"[report]({artifact_page(experiment_id, run_id, REPORT)})")
    models = run.outputs.model_outputs if run.outputs else []
    made += [f"[model]({model_page(experiment_id, model.model_id)})" for model in models]
    if not models:
        made.append(f"[{output}]({artifact_page(experiment_id, run_id, output)})")
    if page_ := _version_page(run):
        made.append(f"[version {run.data.tags['deploy.version']}]({page_})")
    lines.append(f"made: {', '.join(made)}")
    if parent := run.data.tags.get(MLFLOW_PARENT_RUN_ID):
        lines.append(f"part of: [the workflow]({page(experiment_id, parent)})")
    title = f"{summary}, from the source `{printable(source)}`" if source else summary
    return "\n".join([title, "", *(f"- {line}" for line in lines)])


def of_failure(message: str) -> str:
    """The description of a run that failed."""
    return f"**Failed**: {printable(message)}"[:TAG_LENGTH]


def record_interruption(run: Run) -> str:
    """Writes to a run's description that it was interrupted, and how many trials are kept; returns this as a sentence.

    Args:
        run: a run of this process that Ctrl-C or a signal has ended.
    """
    kept, trials = "", finished_below(run)
    if trials:
        them = "1 finished trial is kept" if trials == 1 else f"{trials} finished trials are kept"
        kept = f": {them}; the next run with the same data, code, metric and seed continues from there"
    mlflow.MlflowClient().set_tag(run.info.run_id, MLFLOW_RUN_NOTE, f"**Interrupted**{kept}")
    return f"interrupted{kept}"


def describe(run: Run, sentence: str, files: Iterable[str], uris: Mapping[str, str]) -> None:
    """Writes the description of a run of `predict`, `rollback` or `approve`, which are not steps of the workflow.

    Args:
        run: the run.
        sentence: what the run did.
        files: the paths of the artifacts to link to.
        uris: the URIs of further links, by the text of the link.
    """
    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    links = [f"- [{file}]({artifact_page(experiment_id, run_id, file)})" for file in files]
    links += [f"- [{text}]({_page_of(experiment_id, uri)})" for text, uri in uris.items()]
    mlflow.MlflowClient().set_tag(run_id, MLFLOW_RUN_NOTE, "\n".join([printable(sentence)[:TAG_LENGTH], "", *links]))


def record_failure(run_id: str, message: str) -> None:
    """Writes an error to a run's tag `error` and to its description, which MLflow's page shows."""
    tags = {ERROR: message[:TAG_LENGTH], MLFLOW_RUN_NOTE: of_failure(message)}
    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def links_of_model(train: Run | None, dataset: str, deploy: Run) -> dict[str, str]:
    """The Markdown links in a version's description, by name: report, model, train, dataset and deploy.

    Args:
        train: the train run; None: it was deleted for good, so there is no report, no model and no link to the run.
        dataset: the dataset that the version was judged on, as `runs:/<run id>/dataset`.
        deploy: the run of deploy, or of approve.
    """
    links = {}
    experiment_id = deploy.info.experiment_id
    if train:
        home = train.info.experiment_id, train.info.run_id
        links["report"] = f"[{REPORT}]({artifact_page(*home, REPORT)})"
        for model in train.outputs.model_outputs if train.outputs else []:
            links["model"] = f"[{model.model_id}]({model_page(home[0], model.model_id)})"
        links["train"] = f"[{home[1]}]({page(*home)})"
    else:
        links["train"] = "deleted"
    links["dataset"] = f"[{dataset}]({_page_of(experiment_id, dataset)})"
    links["deploy"] = f"[{deploy.info.run_id}]({page(experiment_id, deploy.info.run_id)})"
    return links


def describe_models(run: Run, text: str) -> None:
    """Writes a text as the description of each model that a run logged. The model's page shows the description."""
    client = mlflow.MlflowClient()
    for model in run.outputs.model_outputs if run.outputs else []:
        client.set_logged_model_tags(model.model_id, {MLFLOW_RUN_NOTE: text})


def of_steps(steps: Sequence[tuple[str, str, Run]], sentence: str = "") -> str:
    """The description of main's run: the outcome, links to dataset, report, model and version, and the steps.

    Args:
        steps: for each step, its name, the word `ran` or `reused`, and its run.
        sentence: the outcome; empty: there is none yet.
    """
    links, table = [], ["| step | | run |", "|---|---|---|"]
    for step, what, run in steps:
        home = run.info.experiment_id, run.info.run_id
        table.append(f"| {step} | {what} | [{run.info.run_id}]({page(*home)}) |")
        if step == "process":
            links.append(f"[Dataset]({artifact_page(*home, 'dataset')})")
        if step == "train":
            links.insert(0, f"[Report of the model]({artifact_page(*home, REPORT)})")
            models = run.outputs.model_outputs if run.outputs else []
            links += [f"[Model]({model_page(home[0], model.model_id)})" for model in models]
        if page_ := _version_page(run):
            links.append(f"[Version {run.data.tags['deploy.version']}]({page_})")
    return "\n\n".join(filter(None, [sentence, " · ".join(links), "\n".join(table)]))


def _version_page(run: Run) -> str:
    """The link to the page of the version that a deploy decided about; empty if the run's tags name no version."""
    name, number = (run.data.tags.get(tag) for tag in ("deploy.registry_name", "deploy.version"))
    return version_page(name, number) if name and number else ""


def _page_of(experiment_id: str, uri: str) -> str:
    """The link to the page of the artifact, model or version that a URI names.

    The link to an artifact works even if its run is not in the experiment `experiment_id`, because MLflow finds the run
    by its id alone.
    """
    named = parse(uri)
    if isinstance(named, RunUri):
        if named.path != "model":
            return artifact_page(experiment_id, named.run_id, named.path)
        # MLflow does not list a model among the artifacts of its run.
        run = run_if_there(named.run_id)
        models = run.outputs.model_outputs if run and run.outputs else []
        if run and models:
            return model_page(run.info.experiment_id, models[-1].model_id)
        return page(experiment_id, named.run_id)
    if isinstance(named, ModelUri):
        return version_page(named.name, named.version) if named.version else registry_page(named.name)
    return model_page(experiment_id, named.model_id) if named else registry_page()
