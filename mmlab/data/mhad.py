"""Berkeley MHAD: actions, felt by accelerometers and seen as a skeleton (Ofli et al., 2013)."""

from __future__ import annotations

from mmlab.data.base import ProtocolName
from mmlab.data.sensors import Sensor, SensorDataset


class MHAD(SensorDataset):
    """Berkeley MHAD: eleven actions of 12 subjects, from accelerometers and the joints of a skeleton.

    The raw files are the arrays of Harmony's release (Ouyang et al., MobiSys 2023), which ERL-MR's released code reads
    (and calls UTD-MHAD): ``<root>/node_<number>/x1_train.npy`` (accelerometers), windows of (60, 9), ``x2_train.npy``
    (skeleton), windows of (60, 3, 35), ``y_train.npy``, labels 0 to 10, and ``x1_test.npy`` and so on. ``mmlab
    prepare`` checks them and packs them into ``<root>/packed``, 27 kB a window. Windows with values that are no finite
    numbers are left out and named. The arrays are said to be normalised already and are taken as they are. The skeleton
    is seen as a sequence of 105 values: x of all joints, then y, then z.

    That release has a folder for each subject. ERL-MR's code reads a ``node_100`` that it doesn't have, probably all
    subjects together; hence the default of ``nodes``. Training and test windows are the files'. The honest protocol
    carves the validation split from the training windows of all subjects, by window: neighbouring windows may fall on
    both sides. The official protocol selects on the test split.

    The classes' names are those of the original data set in its order; whether Harmony's labels follow that order, no
    source that we had says. A confusion of two names changes no accuracy.

    Args:
        root: folder of the raw arrays and of the pack.
        nodes: the number or the numbers of the subjects that are used; all by default.
        validation_share: of the training windows of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.
    """

    sensors = {
        "accelerometer": Sensor("x1_{part}.npy", (60, 9), time=0),
        "skeleton": Sensor("x2_{part}.npy", (60, 3, 35), time=0),
    }
    activities = (
        "jumping in place",
        "jumping jacks",
        "bending",
        "punching",
        "waving two hands",
        "waving one hand",
        "clapping",
        "throwing",
        "sit down then stand up",
        "sit down",
        "stand up",
    )

    def __init__(
        self,
        root: str = "data/mhad",
        nodes: int | list[int] | None = None,
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        super().__init__(root, nodes, validation_share, split_seed, protocol)
