"""Scores precomputed columns in MLflow's protocol (/invocations), with the functions of `mlflow models serve`."""

import logging
import threading

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import scoring_server
from starlette.responses import Response

from purchase_predict.serving.scorer import Scorer

#: Each thread's own attribute `now` is true while this thread scores a request's body.
_answering = threading.local()


def _quotes_no_request(record: logging.LogRecord) -> bool:
    """Whether a log record of MLflow may be written: false while the current thread scores a request's body.

    MLflow's log records about a request quote it, for example the names of its columns.
    """
    return not getattr(_answering, "now", False)


for _handler in logging.getLogger("mlflow").handlers:
    _handler.addFilter(_quotes_no_request)


def invoke(scorer: Scorer, body: bytes, content_type: str) -> Response:
    """Scores the rows of a body, which is JSON (`dataframe_records` or `dataframe_split`) or CSV.

    Args:
        scorer: the version that answers.
        body: the request's body.
        content_type: the body's media type.

    Returns:
        The response with the predictions. For Parquet, a response with status 415.

    Raises:
        MlflowException: the rows cannot be read or scored. The exception has the HTTP status of the response.
    """
    model = scorer.loaded
    assert model is not None
    if content_type.partition(";")[0].strip() == scoring_server.CONTENT_TYPE_PARQUET:
        # Arrow before 14.0.1 unpickles objects from a file's metadata (CVE-2023-47248), and no client needs Parquet.
        return Response("use JSON or CSV", 415, media_type="text/plain")
    _answering.now = True
    try:
        made = scoring_server.invocations(body, content_type, model, model.metadata.get_input_schema())
    except MlflowException:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # MLflow's own server returns a 500 for some malformed bodies. Here the client gets a 400.
        raise MlflowException(f"the body cannot be read: {type(error).__name__}", error_code=BAD_REQUEST) from error
    finally:
        _answering.now = False
    return Response(made.response, made.status, media_type=made.mimetype)
