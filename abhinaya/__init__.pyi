from abhinaya.api.runs import Run as Run
from abhinaya.api.runs import load as load
from abhinaya.api.tables import compare as compare
from abhinaya.api.tables import load_predictions as load_predictions
from abhinaya.api.tables import read_predictions as read_predictions
from abhinaya.api.tables import score as score
from abhinaya.api.tables import smooth as smooth
from abhinaya.api.tables import vote as vote
from abhinaya.data.manifest import read_manifest as read_manifest
from abhinaya.data.predictions import PredictionTable as PredictionTable

__version__: str
