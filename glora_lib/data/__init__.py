from functools import lru_cache
from glora_lib.data.task import DataError, Task
from glora_lib.data import packaged, gratings
@lru_cache
def _l(name,size):
    return {"mnist_5k":packaged.load_mnist_5k,"landcover_10":packaged.load_landcover_10,"gratings":gratings.load_gratings}[name](size)
def load_task(name, profile):
    return _l(name, profile.image_size)
