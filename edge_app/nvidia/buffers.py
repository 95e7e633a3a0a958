"""Memory the GPU works on. One object owns a block; nothing replaces it, one writes into it."""

from typing import Any, Optional, Tuple

import numpy as np

from edge_app.errors import DetectorError
from edge_app.nvidia.context import explained, import_driver


class DeviceBuffer:
    """Memory of the GPU's own. Needs a current context from ``__enter__`` to ``close``."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._memory: Optional[Any] = None

    def __enter__(self) -> "DeviceBuffer":
        with explained("allocating {} bytes on the GPU".format(self.size_bytes)):
            self._memory = import_driver().mem_alloc(max(1, self.size_bytes))
        return self

    @property
    def address(self) -> int:
        """Device address."""
        if self._memory is None:
            raise DetectorError("a device buffer of {} bytes is not open.".format(self.size_bytes))
        return int(self._memory)

    def upload(self, array: np.ndarray) -> None:
        """Copy an array in, and wait; for what is written once, not for frames.

        Raises:
            DetectorError: it does not fit, or is not contiguous.
        """
        if not array.flags.c_contiguous or array.nbytes > self.size_bytes:
            raise DetectorError(
                "cannot upload {} bytes ({}contiguous) into {}.".format(
                    array.nbytes, "" if array.flags.c_contiguous else "not ", self.size_bytes
                )
            )
        with explained("uploading {} bytes".format(array.nbytes)):
            import_driver().memcpy_htod(self.address, array)

    def clear(self) -> None:
        """Fill with zero bytes, and wait."""
        with explained("clearing {} bytes".format(self.size_bytes)):
            import_driver().memset_d8(self.address, 0, self.size_bytes)

    def download(self, array: np.ndarray) -> None:
        """Copy the first ``array.nbytes`` bytes out, and wait; for tests and the parity gate."""
        if not array.flags.c_contiguous or array.nbytes > self.size_bytes:
            raise DetectorError(
                "cannot download {} bytes of {}.".format(array.nbytes, self.size_bytes)
            )
        with explained("downloading {} bytes".format(array.nbytes)):
            import_driver().memcpy_dtoh(array, self.address)

    def close(self) -> None:
        """Free it. Idempotent."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.free()

    def __exit__(self, *_: object) -> None:
        self.close()


class MappedBuffer:
    """Memory of the host that the GPU reads and writes in place.

    On a Jetson both share the DRAM, so nothing is copied; but without I/O coherence (Nano) the CPU
    does not cache it: write it once, front to back, and read little of it.
    """

    def __init__(self, shape: Tuple[int, ...], dtype: Any) -> None:
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._array: Optional[np.ndarray] = None
        self.address = 0  # the device's address of the same bytes, while open

    def __enter__(self) -> "MappedBuffer":
        driver = import_driver()
        with explained("allocating mapped memory of shape {}".format(self._shape)):
            self._array = driver.pagelocked_empty(
                self._shape, self._dtype, mem_flags=driver.host_alloc_flags.DEVICEMAP
            )
            self.address = int(self._array.base.get_device_pointer())
        return self

    @property
    def array(self) -> np.ndarray:
        """The host's view. The GPU may write to it until the stream was synchronised."""
        if self._array is None:
            raise DetectorError("a mapped buffer of shape {} is not open.".format(self._shape))
        return self._array

    def close(self) -> None:
        """Free it; views of ``array`` must not be used any more. Idempotent."""
        array, self._array, self.address = self._array, None, 0
        if array is not None:
            array.base.free()

    def __exit__(self, *_: object) -> None:
        self.close()
