"""Concepts that captions name, with the words that name them; and subjects that Flickr8k does not have.

`CONCEPTS`: a query, and every word whose presence in a caption means that the picture may show it. Taken are subjects
that captions rarely leave out; not clothing or backgrounds (a hat, a fence, a car), which are in many more pictures
than say so.
"""

from __future__ import annotations

import re

_BALLS = "ball balls football soccer basketball baseball tennis volleyball rugby softball"
_BIKES = "bike bikes biker bikers"
_BOARDS = "snowboard snowboarder snowboarders snowboarding snowboards"
_CLIMB = "climb climber climbers climbing climbs climbed rock rocks cliff rappel rappelling mountain"
_MUSIC = "instrument instruments band music concert guitar guitars guitarist drum drums drummer drummers"
_SKATES = "skateboard skateboards skateboarder skateboarders skateboarding skate skates skater skaters skating board"
_SKIS = "ski skis skier skiers skiing"
_WAVES = "surf surfs surfer surfers surfboard surfing wave waves"

CONCEPTS = {
    "a dog": "dog dogs puppy puppies pup pups doggy labrador lab retriever poodle terrier greyhound greyhounds "
    "shepherd dachshund beagle collie rottweiler chihuahua husky pug bulldog spaniel dalmatian schnauzer corgi "
    "doberman hound",
    "a cat": "cat cats kitten kittens",
    "a horse": "horse horses pony ponies cowboy rodeo jockey bronco bull",
    "a bird": "bird birds seagull seagulls pigeon pigeons duck ducks goose geese parrot eagle swan",
    "a sheep": "sheep lamb goat goats",
    "a ball": _BALLS,
    "a frisbee": "frisbee frisbees disc disk",
    "snow": f"snow snowy sled sledding snowball snowmobile winter ice icy {_BOARDS} {_SKIS}",
    "a beach": f"beach sand sandy shore ocean sea seashore coast {_WAVES}",
    "the ocean": f"ocean sea beach {_WAVES}",
    "a lake": "lake pond dock",
    "a river": "river stream creek rapids waterfall canoe kayak kayaks kayaker raft rafting",
    "a swimming pool": "pool pools swim swims swimmer swimmers swimming",
    "a bicycle": f"bicycle bicycles bicyclist bicyclists bicycling cyclist cyclists cycling cycle bmx tricycle biking "
    f"{_BIKES}",
    "a motorcycle": f"motorcycle motorcycles motorbike motorbikes motorcyclist motorcyclists motocross motorcross "
    f"dirtbike atv scooter racer {_BIKES}",
    "a skateboard": f"rollerblade rollerblader rollerblades rollerblading {_SKATES}",
    "a surfer": f"wakeboard wakeboarder wakeboarding board bodyboard {_WAVES}",
    "a skier": f"slope snow {_SKIS} {_BOARDS}",
    "a snowboarder": f"slope board {_SKIS} {_BOARDS}",
    "a sled": "sled sledding sleds sleigh toboggan tube",
    "a rock climber": _CLIMB,
    "a boat": "boat boats canoe canoes kayak kayaks kayaker raft rafting ship sailboat ferry",
    "a train": "train trains subway railway railroad locomotive tracks",
    "a bus": "bus buses",
    "a soccer player": "soccer football",
    "a basketball player": "basketball basket hoop dunk",
    "a baseball player": "baseball softball bat batter pitcher",
    "a tennis player": "tennis racket racquet",
    "a football player": "football footballer footballers quarterback helmet helmets jersey jerseys rugby soccer",
    "ice hockey": "hockey ice rink puck",
    "a guitar": _MUSIC,
    "a drum": _MUSIC,
    "a musician": f"musician musicians violin saxophone accordion piano trumpet flute {_MUSIC}",
    "a swing": "swing swings swinging",
    "a slide": "slide slides sliding",
    "a playground": "playground swing swings slide slides",
    "a trampoline": "trampoline bouncing bouncy bounce",
    "a baby": "baby babies infant toddler toddlers",
    "a fountain": "fountain fountains",
    "a bridge": "bridge bridges",
    "a bed": "bed beds pillow mattress",
    "a couch": "couch sofa",
    "a tent": "tent tents camping camp campsite",
    "a fire": "fire fires campfire flame flames bonfire burning",
    "fireworks": "firework fireworks sparkler sparklers",
    "ice cream": "ice cream icecream cone popsicle",
    "people eating": "eat eats eating food meal lunch dinner restaurant pizza snack cake bread",
    "a puddle": "puddle puddles",
    "a sprinkler": "sprinkler sprinklers hose",
    "a fisherman": "fish fishing fisherman fishes fishermen",
    "wrestling": "wrestle wrestler wrestlers wrestling wrestles boxing boxer boxers fight fighting martial karate",
    "a dancer": "dance dancer dancers dancing dances ballet ballerina",
    "a gymnast": "gymnast gymnastics gym cartwheel flip flips handstand",
    "a wedding": "wedding bride groom",
    "a wheelchair": "wheelchair wheelchairs",
    "a balloon": "balloon balloons",
    "bubbles": "bubble bubbles",
    "graffiti": "graffiti mural",
    "a waterfall": "waterfall waterfalls",
}

FAR = """
a giraffe, an elephant, a polar bear, a penguin, a tiger, a zebra, a kangaroo, a snake, a crocodile, a jellyfish,
a whale, a goldfish in a bowl, a spider web, a beehive, a lobster on a plate, a cactus, a pumpkin, a pineapple,
a bowl of strawberries, a plate of sushi, a glass of red wine, a wedding cake, a business card, a receipt,
a page of printed text, a bar chart, a map of Europe, a screenshot of a web page, a satellite image, an x-ray of a hand,
a submarine, a space rocket, an astronaut in space, a tractor in a wheat field, a windmill, a wind turbine,
a lighthouse, a castle on a hill, the Eiffel tower, a volcano erupting, the northern lights, a Christmas tree,
an operating room, a courtroom, a bathroom with a toilet, a kitchen with an oven, a refrigerator, a washing machine,
a sewing machine, a laptop on a desk, a keyboard and a mouse, a piano keyboard, a circuit board, a microscope,
a chess board, a bookshelf full of books, a wristwatch, a diamond ring, a pair of scissors, a hammer and nails
"""


def far_queries() -> list[str]:
    return [" ".join(query.split()) for query in FAR.split(",")]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))
