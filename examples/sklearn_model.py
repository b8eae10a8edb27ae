"""Serve a scikit-learn model: a pipeline that says how probable it is that a tumour is benign.

It needs no deployer of its own: the one for Python functions takes along what a function captured. With ``--docker``
the cluster runs on Docker, on the images that `make images` builds.
"""

import sys
from collections.abc import Sequence
from typing import Any

import sklearn
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clipper_admin import ClipperConnection, DockerContainerManager, ProcessContainerManager
from clipper_admin.deployers import python as python_deployer


def main(arguments: Sequence[str] = ()) -> None:
    manager = DockerContainerManager if "--docker" in arguments else ProcessContainerManager
    clipper_conn = ClipperConnection(manager(cluster_name="sklearn-example"))
    clipper_conn.stop_all()  # what an earlier run left, if it was killed
    try:
        clipper_conn.start_clipper()
        show(clipper_conn)
    finally:
        clipper_conn.stop_all()


def show(clipper_conn: ClipperConnection) -> None:
    data = load_breast_cancer()
    known, asked, labels, truths = train_test_split(data.data, data.target, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(known, labels)

    def predict(patients: Any) -> list[Any]:
        return model.predict_proba(patients)[:, 1].tolist()

    python_deployer.create_endpoint(
        clipper_conn,
        name="benign",
        input_type="doubles",
        func=predict,
        default_output="-1",
        slo_micros=5_000_000,
        # Replicas of the process manager have the packages of this interpreter; those of others get them.
        pkgs_to_install=packages() if isinstance(clipper_conn.cm, DockerContainerManager) else None,
    )
    answers = [clipper_conn.predict("benign", patient) for patient in asked]
    assert not any(answer["default"] for answer in answers)
    served, directly = [answer["output"] for answer in answers], predict(asked)
    right = sum((output > 0.5) == truth for output, truth in zip(served, truths, strict=True))
    print(f"Served by Clipper: {served[:5]} ...")
    print(f"Called directly:   {directly[:5]} ...")
    print(
        f"The largest difference of {len(asked)}: {max(abs(a - b) for a, b in zip(served, directly, strict=True)):.1e}"
    )
    print(f"Accuracy:          {right / len(truths):.1%}")


def packages() -> list[str]:
    """Where the model is served, it needs the versions that trained it."""
    return [f"scikit-learn=={sklearn.__version__}"]


if __name__ == "__main__":
    main(sys.argv[1:])
