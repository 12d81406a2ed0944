"""CLEVR's scenes, ray-traced in numpy: three to ten solids on a grey floor. `clevr` makes tasks of them.

The scenes follow the CLEVR generator (Johnson et al. 2017): its colours, sizes, placement range, camera, jitter and the
rule that every object stays visible. The rendering is simpler: one lamp that casts hard shadows, one fill light, and
metal that mirrors a bright room instead of its neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

FEWEST, MOST = 3, 10
PIXELS, SUPERSAMPLING = 64, 2
VISIBLE = 8  # pixels of each object that must be seen; CLEVR asks for 200 of 480 x 320, which is 5.3 of 64 x 64

# Geometry in CLEVR's units.
SHAPES = ("sphere", "cube", "cylinder")
RADII = (0.7, 0.35)
RANGE, GAP = 3.0, 0.25  # centres lie in [-3, 3] squared; the least distance between two footprints
CAMERA, JITTER, TARGET = np.array([7.48, -6.51, 5.34]), 0.5, np.array([0.0, 0.0, 0.3])
# Half the view's width and height: a 480 x 320 frame, which VTAB's preprocessing squeezes to a square, as we do.
VIEW = (0.457, 0.305)
LAMP, FILL = np.array([4.0, -2.5, 7.0]), np.array([-4.0, -6.0, 4.0])
FLOOR = 0.5
COLOURS = np.array(
    [
        *((87, 87, 87), (173, 35, 35), (42, 75, 215), (29, 105, 20)),  # grey, red, blue, green
        *((129, 74, 25), (129, 38, 192), (41, 208, 208), (255, 238, 51)),  # brown, purple, cyan, yellow
    ]
)
NEAR = 1e-4  # hits closer than this are the surface that the ray starts on


@dataclass(frozen=True)
class Solid:
    """One object standing on the floor z = 0."""

    shape: str
    size: float  # radius of a sphere or cylinder, half the side of a cube, half the height of each
    x: float
    y: float
    angle: float  # about the vertical axis, in radians
    colour: int
    metal: bool

    def to_local(self, vectors: Float[np.ndarray, "rays 3"]) -> Float[np.ndarray, "rays 3"]:
        """Rotate and scale vectors into the frame where the solid has size 1."""
        cos, sin = np.cos(self.angle) / self.size, np.sin(self.angle) / self.size
        x, y, z = vectors.T
        return np.stack([cos * x + sin * y, cos * y - sin * x, z / self.size], -1)

    def to_world(self, normals: Float[np.ndarray, "rays 3"]) -> Float[np.ndarray, "rays 3"]:
        """Rotate unit normals back."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y, z = normals.T
        return np.stack([cos * x - sin * y, sin * x + cos * y, z], -1)


def dot(a: Float[np.ndarray, "*rays axes"], b: Float[np.ndarray, "*rays axes"]) -> Float[np.ndarray, "*rays"] | np.floating:
    """Return the scalar product over the last axis; einsum, because BLAS may differ between machines."""
    return np.einsum("...i,...i->...", a, b)


def unit(vectors: Float[np.ndarray, "*rays 3"]) -> Float[np.ndarray, "*rays 3"]:
    return vectors / np.sqrt(dot(vectors, vectors))[..., None]


# Each function below takes origins p outside the solid and directions e, both (R, 3), in the solid's frame. It returns
# the distance of the first hit (R,), infinite for a miss, in multiples of e's length, and the unit normal there (R, 3).
Hits = tuple[Float[np.ndarray, " rays"], Float[np.ndarray, "rays 3"]]


def hit_sphere(p: Float[np.ndarray, "rays 3"], e: Float[np.ndarray, "rays 3"]) -> Hits:
    a, b, c = dot(e, e), dot(p, e), dot(p, p) - 1
    root = b * b - a * c
    distance = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root > 0) & (distance > NEAR), distance, np.inf), p + distance[:, None] * e


def hit_cube(p: Float[np.ndarray, "rays 3"], e: Float[np.ndarray, "rays 3"]) -> Hits:
    e = np.where(np.abs(e) < 1e-9, 1e-9, e)
    first, last = (-1 - p) / e, (1 - p) / e
    enter = np.minimum(first, last)
    distance, axis = enter.max(-1), enter.argmax(-1)
    hit = (distance < np.maximum(first, last).min(-1)) & (distance > NEAR)
    return np.where(hit, distance, np.inf), -np.sign(e) * np.eye(3)[axis]


def hit_cylinder(p: Float[np.ndarray, "rays 3"], e: Float[np.ndarray, "rays 3"]) -> Hits:
    a, b, c = (dot(u[:, :2], v[:, :2]) for u, v in ((e, e), (p, e), (p, p)))
    a = np.maximum(a, 1e-12)
    root = b * b - a * (c - 1)
    side = (-b - np.sqrt(np.maximum(root, 0))) / a
    on_side = (root > 0) & (side > NEAR) & (np.abs(p[:, 2] + side * e[:, 2]) <= 1)
    side = np.where(on_side, side, np.inf)
    lid = (1 - p[:, 2]) / np.where(np.abs(e[:, 2]) < 1e-9, 1e-9, e[:, 2])  # seen from above: no ray meets the bottom
    on_lid = p[:, :2] + lid[:, None] * e[:, :2]
    lid = np.where((dot(on_lid, on_lid) <= 1) & (lid > NEAR), lid, np.inf)
    normal = p + np.where(on_side, side, 0)[:, None] * e
    normal[:, 2] = 0
    normal[lid < side] = (0, 0, 1)
    return np.minimum(side, lid), normal


HIT: dict[str, Callable] = {"sphere": hit_sphere, "cube": hit_cube, "cylinder": hit_cylinder}
BOUND = {"sphere": 1.0, "cube": 3.0, "cylinder": 2.0}  # squared radius of the sphere around it, at size 1


def intersect(
    solid: Solid, origin: Float[np.ndarray, "*rays 3"], direction: Float[np.ndarray, "rays 3"]
) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"], Float[np.ndarray, "hits 3"]]:
    """Return (indices, distances, normals) of the rays that meet the solid.

    `origin` is (3,) or (R, 3), `direction` (R, 3) of unit length.
    """
    offset = origin - (solid.x, solid.y, solid.size)
    along = dot(np.broadcast_to(offset, direction.shape), direction)
    near = (dot(offset, offset) - along**2 < BOUND[solid.shape] * solid.size**2) & (along < 0)
    rays = np.flatnonzero(near)  # few, and only these need the exact test
    p = solid.to_local(np.broadcast_to(offset, direction.shape)[rays])
    distance, normal = HIT[solid.shape](p, solid.to_local(direction[rays]))
    hit = np.isfinite(distance)
    return rays[hit], distance[hit], solid.to_world(normal[hit])


def place(rng: np.random.Generator, count: int) -> list[Solid]:
    """Return `count` solids whose footprints keep CLEVR's distance; starts afresh where the floor got too full."""
    while True:
        solids = []
        for _ in range(count):
            shape, radius = SHAPES[rng.integers(3)], RADII[rng.integers(2)]
            size = radius / np.sqrt(2) if shape == "cube" else radius
            rest = (rng.uniform(0, np.pi), int(rng.integers(len(COLOURS))), bool(rng.integers(2)))
            for _ in range(50):
                x, y = rng.uniform(-RANGE, RANGE, 2)
                if all(np.hypot(x - s.x, y - s.y) > footprint(s) + radius + GAP for s in solids):
                    solids.append(Solid(shape, size, x, y, *rest))
                    break
        if len(solids) == count:
            return solids


def footprint(solid: Solid) -> float:
    """Return the radius of the circle that the solid stands in."""
    return solid.size * np.sqrt(2) if solid.shape == "cube" else solid.size


def view(rng: np.random.Generator, pixels: int) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "rays 3"]]:
    """Return a jittered camera (3,) and one unit ray for each pixel (pixels^2, 3), row by row from the top left."""
    camera = CAMERA + rng.uniform(-JITTER, JITTER, 3)
    forward = unit(TARGET - camera)
    right = unit(np.cross(forward, (0, 0, 1)))
    grid = (np.arange(pixels) + 0.5) / pixels * 2 - 1
    across, down = VIEW[0] * grid[None, :, None] * right, VIEW[1] * grid[:, None, None] * np.cross(right, forward)
    return camera, unit((forward + across - down).reshape(-1, 3))


def nearest_depth(solids: list[Solid], camera: Float[np.ndarray, "3"]) -> float:
    """Return the least depth of a solid's centre along the camera's axis, in CLEVR's units."""
    centres = np.array([(solid.x, solid.y, solid.size) for solid in solids])
    offsets = centres - camera
    return float(dot(offsets, np.broadcast_to(unit(TARGET - camera), offsets.shape)).min())


def any_scene(solids: list[Solid], camera: Float[np.ndarray, "3"]) -> bool:
    return True


def scene(rng: np.random.Generator, count: int | None, pixels: int, accept: Callable = any_scene) -> tuple:
    """Return solids and a camera that sees each of them, with the first hit of each ray.

    Scenes are drawn, with `count` solids or, for None, each with three to ten, until `accept(solids, camera)` holds.
    Returns (solids, camera (3,), rays (R, 3), distances (R,), normals (R, 3), which (R,)), where `which` holds a solid's
    index, or -1 for the floor.
    """
    least = VISIBLE * (pixels / PIXELS) ** 2
    while True:
        solids = place(rng, int(rng.integers(FEWEST, MOST + 1)) if count is None else count)
        camera, rays = view(rng, pixels)
        if not accept(solids, camera):
            continue
        # Every ray points down, so it meets the floor where no solid is in between.
        distance, which = -camera[2] / rays[:, 2], np.full(len(rays), -1)
        normal = np.tile((0.0, 0.0, 1.0), (len(rays), 1))
        for index, solid in enumerate(solids):
            hit, far, normals = intersect(solid, camera, rays)
            front = far < distance[hit]
            hit = hit[front]
            distance[hit], normal[hit], which[hit] = far[front], normals[front], index
        if np.bincount(which + 1, minlength=len(solids) + 1)[1:].min() >= least:
            return solids, camera, rays, distance, normal, which


def render(rng: np.random.Generator, count: int | None, accept: Callable = any_scene) -> UInt8[np.ndarray, "pixels pixels 3"]:
    """Return one image, uint8 (64, 64, 3), of a scene drawn as `scene` says."""
    solids, camera, rays, distance, normal, which = scene(rng, count, PIXELS * SUPERSAMPLING, accept)
    colour = np.vstack([*(COLOURS[s.colour] / 255 for s in solids), (FLOOR, FLOOR, FLOOR)])[which]
    metal = np.array([*(s.metal for s in solids), False])[which]
    points = camera + distance[:, None] * rays

    to_lamp = LAMP + rng.uniform(-1, 1, 3) - points
    lamp_distance = np.sqrt(dot(to_lamp, to_lamp))
    to_lamp /= lamp_distance[:, None]
    lit = dot(normal, to_lamp) > 0
    for solid in solids:
        blocked, _, _ = intersect(solid, points + 1e-3 * normal, to_lamp)  # the lamp hangs above all solids
        lit[blocked] = False
    key = np.where(lit, dot(normal, to_lamp), 0) * (70 / lamp_distance**2)
    fill = np.maximum(dot(normal, unit(FILL + rng.uniform(-1, 1, 3) - points)), 0)

    mirrored = rays - 2 * dot(rays, normal)[:, None] * normal
    highlight = np.maximum(dot(mirrored, to_lamp), 0) ** np.where(metal, 40, 10) * lit * np.where(metal, 0.9, 0.08)
    room = np.clip(0.5 + mirrored[:, 2], 0.15, 1.2)  # what metal mirrors: bright above, dark below
    surroundings = np.where(metal, 0.55 * room, 0)
    diffuse = (0.22 + 0.55 * key + 0.2 * fill) * np.where(metal, 0.5, 1)
    light = colour * (diffuse + surroundings)[:, None] + np.where(which < 0, 0, highlight)[:, None]
    image = np.clip(light, 0, 1) ** (1 / 1.8)
    image = image.reshape(PIXELS, SUPERSAMPLING, PIXELS, SUPERSAMPLING, 3).mean((1, 3))
    return (image * 255).round().astype(np.uint8)
