"""What failed Ray tasks raised."""

from jobs.failures import unwrapped
from pipeline.errors import JobError


def test_our_own_error_is_read_out_of_a_trace():
    trace = "ray::stage()\npipeline.errors.StoreError: cannot read s3://b/x\ncheck its name\n\nThe above exception"
    error = unwrapped(RuntimeError(trace))
    assert type(error).__name__ == "StoreError"
    assert str(error) == "cannot read s3://b/x\ncheck its name"


def test_a_strange_error_says_what_ray_said_first():
    trace = (
        "ray::stage()\nZeroDivisionError: division by zero\n\nThe above exception was the direct cause\nUser"
    )
    error = unwrapped(RuntimeError(trace))
    assert isinstance(error, JobError)
    assert "ZeroDivisionError: division by zero" in str(error)
