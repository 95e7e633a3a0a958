"""The kernels on a GPU behind the interface of kernel_runner.Runner: arrays go there and back."""

import numpy as np

from edge_app.nvidia.context import explained, import_driver


class GpuRunner:
    """Kernels by name. Needs a current context.

    Args:
        cubins: as ``compiler.compile_all`` returns them.
    """

    def __init__(self, cubins):
        self._driver = import_driver()
        self._modules = []
        for path in cubins:
            with open(path, "rb") as file:
                self._modules.append((file.read(), self._driver.module_from_file(path)))

    def close(self):
        """Unload the kernels; before the context is left."""
        self._modules = []

    def _function(self, name):
        # Asking the wrong module would be an error to compute-sanitizer: look into the symbols.
        for content, module in self._modules:
            if b"\0" + name.encode("ascii") + b"\0" in content:
                return module.get_function(name)
        raise KeyError(name)

    def launch(self, name, grid, block, arguments, dynamic_bytes=0, order=0):
        """Run one kernel and wait. ``order`` has no meaning here: the GPU chooses."""
        del order
        values, copies = [], []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                memory = self._driver.mem_alloc(max(1, argument.nbytes))
                self._driver.memcpy_htod(memory, argument)
                copies.append((memory, argument))
                values.append(memory)
            else:
                values.append(
                    np.int32(argument) if isinstance(argument, int) else np.float32(argument)
                )
        with explained("running " + name):
            self._function(name)(
                *values,
                grid=(tuple(grid) + (1, 1))[:3],
                block=(tuple(block) + (1, 1))[:3],
                shared=dynamic_bytes,
            )
            self._driver.Context.synchronize()
        for memory, argument in copies:
            if argument.flags.writeable:
                self._driver.memcpy_dtoh(argument, memory)
            memory.free()
