"""A vision component in ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from valley2_edge.config import ModelConfig
from valley2_edge.errors import BundleError, Cancelled, Valley2Warning
from valley2_edge.runtime.cancellation import CancelToken, run_until_cancelled
from valley2_edge.runtime.core.backend import BackendRun
from valley2_edge.runtime.core.vision_engine import Array, ComponentName, EngineInputs, inputs_of, output_shape
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime, open_graph
from valley2_edge.runtime.onnx.providers import first_line, translated, with_options

if TYPE_CHECKING:
    import onnxruntime

_OUTPUTS = {"siglip": "features", "projector": "tokens", "eagle": "tokens"}


class OnnxEngine:
    """A graph of a vision component; what a backend opens.

    Args:
        path: The graph.
        name: siglip, projector or eagle.
        architecture: The bundle's architecture.
        threads: Number of CPU threads.
        providers: ONNX Runtime's execution providers in order of preference.

    Raises:
        BundleError: The graph cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        name: ComponentName,
        architecture: ModelConfig,
        *,
        threads: int,
        providers: Sequence[str],
    ) -> None:
        self._name = name
        self._architecture = architecture
        self._cancel = CancelToken()
        """Ends the run that is going on, or else the next one."""
        try:
            wanted = with_options(providers)
            self._session = open_graph(path, session_options(threads), wanted)
        # onnxruntime's exceptions have no common base of their own.
        except Exception as error:
            raise BundleError(f"{path} cannot be loaded: {first_line(error)}") from error
        self.providers: list[str] = self._session.get_providers()
        """What ONNX Runtime really gave."""
        if self.providers[0] != providers[0]:
            message = f"The {name} engine runs on {self.providers[0]}: {providers[0]} could not be used."
            warnings.warn(message, Valley2Warning, stacklevel=2)

    def run(self, call: BackendRun) -> None:
        """Computes into `call.output`.

        A cancelled run is left behind (`compute`), so that it works on copies of what belongs to the core.

        Raises:
            Cancelled: `cancel` was called.
            BudgetError: The memory does not suffice.
            BundleError: The graph computes something of another size.
        """
        inputs = inputs_of(self._name, self._architecture, call.values, call.positions)
        copies = {name: values.copy() for name, values in inputs.items()}
        try:
            result = self.compute(copies, self._cancel)
        finally:
            self._cancel = CancelToken()
        expected = output_shape(self._name, self._architecture, len(call.values))
        if result.shape != expected:
            raise BundleError(f"The {self._name} graph computes {list(result.shape)} instead of {list(expected)}.")
        call.output[:] = result.reshape(-1)

    def cancel(self) -> None:
        """Makes `run` end."""
        self._cancel.cancel()

    def compute(self, inputs: EngineInputs, cancel: CancelToken | None = None) -> Array:
        """Computes the graph.

        ONNX Runtime stops between two nodes of a graph only, and one node of a large picture's attention takes
        seconds. So a cancelled run is left behind: it ends after its node, while the caller goes on.

        Args:
            inputs: By name; they are used until the run ends.
            cancel: Ends the wait for it.

        Raises:
            Cancelled: The token was set.
            BudgetError: The memory does not suffice.
        """
        run_options = import_onnxruntime().RunOptions()
        run_options.log_severity_level = 4  # a terminated run is no error to write about
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

        def terminate() -> None:
            run_options.terminate = True

        session, outputs = self._session, [_OUTPUTS[self._name]]
        try:
            result: Array = run_until_cancelled(
                lambda: session.run(outputs, inputs, run_options)[0], cancel or CancelToken(), terminate
            )
        except Cancelled:
            raise
        # onnxruntime's exceptions have no common base of their own.
        except Exception as error:
            raise translated(self._name, error) from error
        return np.asarray(result, np.float32)

    def close(self) -> None:
        """Gives the weights back."""
        del self._session


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options with which a vision graph takes little memory beside its weights; 0 threads: all."""
    options: onnxruntime.SessionOptions = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Packed copies of the weights would double their memory to save about a twentieth of a tile's time; without
    # them the weights are pages of the bundle's own files.
    options.add_session_config_entry("session.disable_prepacking", "1")
    # The C library's allocator breaks up under tensors that come and go: it held six times what was in use. The
    # arena does not, and shrinks after each run; weights, which stay, are kept out of it.
    options.enable_cpu_mem_arena = True
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # A plan of all tensors is one more block, beside what the arena holds already.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options
