"""DomainNet (http://ai.bu.edu/M3SDA): six domains with the same 345 classes.

`clipart.zip` unpacks to `clipart/<class>/<image>`. The lists `clipart_train.txt` and
`clipart_test.txt` lie beside it; a line is `clipart/axe/clipart_011_000001.jpg 11`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hpt_dist.sources.named import holdout, unpacked
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample

_PARTS = 3
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
RULE = (
    "the site's lists {0}_train.txt and {0}_test.txt; val is 20 % of train, of each class the "
    "same share, by SHA-256 of the path"
)
# By id. The lists say the same, but the lists of one domain may lack a class.
CLASSES = """
aircraft_carrier airplane alarm_clock ambulance angel animal_migration ant anvil apple arm asparagus
axe backpack banana bandage barn baseball baseball_bat basket basketball bat bathtub beach bear
beard bed bee belt bench bicycle binoculars bird birthday_cake blackberry blueberry book boomerang
bottlecap bowtie bracelet brain bread bridge broccoli broom bucket bulldozer bus bush butterfly
cactus cake calculator calendar camel camera camouflage campfire candle cannon canoe car carrot
castle cat ceiling_fan cello cell_phone chair chandelier church circle clarinet clock cloud
coffee_cup compass computer cookie cooler couch cow crab crayon crocodile crown cruise_ship cup
diamond dishwasher diving_board dog dolphin donut door dragon dresser drill drums duck dumbbell ear
elbow elephant envelope eraser eye eyeglasses face fan feather fence finger fire_hydrant fireplace
firetruck fish flamingo flashlight flip_flops floor_lamp flower flying_saucer foot fork frog
frying_pan garden garden_hose giraffe goatee golf_club grapes grass guitar hamburger hammer hand
harp hat headphones hedgehog helicopter helmet hexagon hockey_puck hockey_stick horse hospital
hot_air_balloon hot_dog hot_tub hourglass house house_plant hurricane ice_cream jacket jail kangaroo
key keyboard knee knife ladder lantern laptop leaf leg light_bulb lighter lighthouse lightning line
lion lipstick lobster lollipop mailbox map marker matches megaphone mermaid microphone microwave
monkey moon mosquito motorbike mountain mouse moustache mouth mug mushroom nail necklace nose ocean
octagon octopus onion oven owl paintbrush paint_can palm_tree panda pants paper_clip parachute
parrot passport peanut pear peas pencil penguin piano pickup_truck picture_frame pig pillow
pineapple pizza pliers police_car pond pool popsicle postcard potato power_outlet purse rabbit
raccoon radio rain rainbow rake remote_control rhinoceros rifle river roller_coaster rollerskates
sailboat sandwich saw saxophone school_bus scissors scorpion screwdriver sea_turtle see_saw shark
sheep shoe shorts shovel sink skateboard skull skyscraper sleeping_bag smiley_face snail snake
snorkel snowflake snowman soccer_ball sock speedboat spider spoon spreadsheet square squiggle
squirrel stairs star steak stereo stethoscope stitches stop_sign stove strawberry streetlight
string_bean submarine suitcase sun swan sweater swing_set sword syringe table teapot teddy-bear
telephone television tennis_racquet tent The_Eiffel_Tower The_Great_Wall_of_China The_Mona_Lisa
tiger toaster toe toilet tooth toothbrush toothpaste tornado tractor traffic_light train tree
triangle trombone truck trumpet t-shirt umbrella underwear van vase violin washing_machine
watermelon waterslide whale wheel windmill wine_bottle wine_glass wristwatch yoga zebra zigzag
""".split()  # noqa: SIM905 - a page of names


def open_domain(domain: str, root: Path) -> FileSource:
    """List the images of one domain.

    Raises:
        RequestError: a list does not exist, or all mistakes in the lists.
    """
    lists = {split: f"{domain}_{split}.txt" for split in ("train", "test")}
    folder = unpacked.find(root, [domain, *lists.values()])
    problems = Problems()
    samples: list[Sample] = []
    names: dict[int, str] = {}
    for split, name in lists.items():
        for where, line in unpacked.lines(folder / name):
            relative, _, number = line.rpartition(" ")
            if fault := _fault(domain, relative, number, names):
                problems.add(where, fault)
            else:
                unpacked.add_image(samples, problems, folder, relative, split, int(number), where)
    problems.refuse(f"the lists of {domain}", unpacked.MORE_TO_UNPACK)
    train = sum(one.split == "train" for one in samples)
    return FileSource(
        name=f"domainnet/{domain}",
        rule=RULE.format(domain),
        classes=[names.get(i, one) for i, one in enumerate(CLASSES)],
        files=holdout.hold_out(samples, "val", holdout.percent(20, train), by_class=True),
    )


OPENERS = {domain: partial(open_domain, domain) for domain in DOMAINS}


def _fault(domain: str, relative: str, number: str, names: dict[int, str]) -> str:
    """Return what is wrong with a line, or an empty text; learn the name of its class."""
    parts = relative.split("/")
    if len(parts) != _PARTS or parts[0] != domain or not number.isdecimal():
        return f"a line is `{domain}/CLASS/IMAGE NUMBER`"
    if int(number) >= len(CLASSES):
        return f"there is no class {number}; allowed: 0 to {len(CLASSES) - 1}"
    name = names.setdefault(int(number), parts[1])
    return "" if name == parts[1] else f"class {number} is {name}, not {parts[1]}"
