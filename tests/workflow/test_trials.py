from dataclasses import replace

import mlflow
import pytest

from purchase_predict.search import search
from purchase_predict.search.trial import Trial
from purchase_predict.workflow import trials
from tests.search.tables import table


@pytest.mark.usefixtures("store")
def test_trials_come_back_from_the_store_as_they_were() -> None:
    made = search.search(table(), 6, "roc_auc", 1).trials
    assert {trial.state for trial in made} == {"finished", "pruned"}
    with mlflow.start_run() as run:
        for trial in made:
            trials.record(trial.facts, "key", run)
        found = [Trial(**facts) for facts in trials.earlier("key", run.info.experiment_id)]
        assert trials.earlier("another key", run.info.experiment_id) == []
        (run_of_trial, *_) = mlflow.search_runs(filter_string="attributes.run_name = 'trial 3'", output_format="list")
        mlflow.MlflowClient().set_tag(run_of_trial.info.run_id, trials._TRIAL, "{oops")
        assert len(trials.earlier("key", run.info.experiment_id)) == 2, "trials before the first one that is lost"
    # The store returns everything with which later trials are compared. It does not keep the out-of-fold predictions:
    # the search computes them again.
    assert found == [replace(trial, out_of_fold=None) for trial in made]
