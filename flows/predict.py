"""Predict features of a store with a fitted mixture: ``python -m flows.predict settings.yaml``."""

from prefect import flow

from dgmm import store
from dgmm.config import Predict
from dgmm.pipeline import is_done, run_predict
from dgmm.prediction import Predicted
from dgmm.words import show_predicted
from flows.assets import about_predictions
from flows.common import FLOW, Made, main, phase, publish_summary
from flows.watch import heard


@flow(name="dgmm-predict", **FLOW)
@heard()
def predict(settings: Predict) -> str:
    """Predict features of every sample from others and write them, unless they are there; their path."""
    settings = settings.model_copy(update={"model": store.model_at(settings.model)})
    if is_done(settings.out, settings):
        found = Predicted.in_attributes(store.attributes(settings.out))
    else:
        found = phase("predict", run_predict, settings, Made(settings.out, about_predictions))
    publish_summary("dgmm-predict", show_predicted(settings, found))
    return settings.out


if __name__ == "__main__":
    main(predict, Predict)
