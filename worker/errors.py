"""What can end a job before its result, or a delivery, apart from the library's and the ledger's own errors.

WorkerError
├── WorkloadError         the operator's: the registered workload cannot be used
│   ├── WorkloadNotAllowed  its module is not under the allow-list
│   ├── WorkloadFailed      its factory raised, or did not return a workload
│   └── SamplesMissing      it lacks samples that it was registered with
├── NoSigningKey          the operator's: results are to be signed, and there is no key to do it with
├── NoGpu                 nobody's: the worker is to use a GPU, and there is none now
├── GpuLost               nobody's: the device failed; this process can use it no more
├── AuditFailed           the methods': the policy's last one did not pass its audit; nothing is published
├── DeliveryError         nobody's: a webhook could not be delivered now
│   ├── AddressForbidden    its host leads to an address that is not allowed
│   └── Unreachable         no connection, or no answer in time
└── ShuttingDown          nobody's: the worker is stopping; the job goes back to the queue
"""


class WorkerError(Exception):
    """Base of all errors that the worker raises on purpose."""


class WorkloadError(WorkerError):
    """The registered workload cannot be used; trying again without the operator changes nothing."""


class WorkloadNotAllowed(WorkloadError):
    """The workload's module is not under the allow-list `EXPUNGE_WORKLOADS`."""


class WorkloadFailed(WorkloadError):
    """The workload's module or factory raised, or the factory returned something else."""


class SamplesMissing(WorkloadError):
    """The workload no longer has samples that the model was registered with."""


class NoSigningKey(WorkerError):
    """The folder `EXPUNGE_SIGNING_KEYS` holds no private key that is registered and not revoked."""


class NoGpu(WorkerError):
    """The worker is to use a GPU, and CUDA finds none: the last one was lost, or its driver is not there."""


class GpuLost(WorkerError):
    """The device failed under a run, whose end is written. A process that has seen this can not use the device again."""


class AuditFailed(WorkerError):
    """No method of the policy passed its audit; the served model stays what it was."""


class DeliveryError(WorkerError):
    """A webhook could not be delivered."""


class AddressForbidden(DeliveryError):
    """The host's name leads to no address that may be reached."""


class Unreachable(DeliveryError):
    """There was no answer: no such name, no connection, a bad certificate, or too late."""


class ShuttingDown(WorkerError):
    """The worker is stopping; the run ends at a step boundary, and the job goes back to the queue."""
