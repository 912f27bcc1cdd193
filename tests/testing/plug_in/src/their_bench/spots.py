"""Light or dark spots on grounds of two colours, computed."""

import hashlib

import numpy as np

from benchmark.tasks.manifest import Listing
from benchmark.tasks.task import Task

PER_GROUP = 60
GROUNDS = np.array([[200, 60, 60], [60, 60, 200]])


class Spots(Task):
    def list_samples(self):
        groups = [(y, a) for y in range(2) for a in range(2)]
        ids = tuple(f"spot-{y}{a}-{k:03d}" for y, a in groups for k in range(PER_GROUP))
        labels = np.repeat(np.array(groups), PER_GROUP, axis=0)
        return Listing(ids, labels[:, 0], labels[:, 1])

    def render(self, rows):
        size = self.card.task.pixels.size
        images = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        for image, name, y, a in zip(images, rows.sources, rows.y, rows.a, strict=True):
            top, left = (byte % (size - 8) for byte in hashlib.sha256(name.encode()).digest()[:2])
            image[:] = GROUNDS[a]
            image[top : top + 8, left : left + 8] = 250 if y else 10
        return images
