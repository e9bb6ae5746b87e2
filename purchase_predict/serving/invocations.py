"""MLflow's protocol for those who have the columns: the very functions of `mlflow models serve`."""

import logging

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import scoring_server
from starlette.responses import Response

from purchase_predict.serving.scorer import Scorer

# It explains the protocol in the log at each wrong request of a certain form.
logging.getLogger(scoring_server.__name__).setLevel(logging.ERROR)


def invoke(scorer: Scorer, body: bytes, content_type: str) -> Response:
    """Scores rows as JSON (records or split) or CSV.

    Args:
        scorer: the version that answers.
        body: of the request; `content_type` says what it is.

    Raises:
        MlflowException: the rows cannot be read or scored; it has the status of the answer.
    """
    model = scorer.loaded
    assert model is not None
    if content_type.partition(";")[0].strip() == scoring_server.CONTENT_TYPE_PARQUET:
        # Arrow reads pickled Python objects out of a Parquet file's metadata, and nobody has asked for Parquet.
        return Response("use JSON or CSV", 415, media_type="text/plain")
    try:
        made = scoring_server.invocations(body, content_type, model, model.metadata.get_input_schema())
    except MlflowException:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # MLflow's own server makes a 500 of some malformed bodies.
        raise MlflowException(f"the body cannot be read: {type(error).__name__}", error_code=BAD_REQUEST) from error
    return Response(made.response, made.status, media_type=made.mimetype)
