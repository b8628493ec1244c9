# ruff: noqa: E501
"""Twenty scenarios, written by hand, from which the labelled trajectories are put together.

Each has a question, what the searches return (in the words of web pages), and reasons in several manners: one that
follows from the pages, one that makes facts up, one that refers to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """One thing in the picture (or one page, of a question without a picture)."""

    title: str  # of the page that an image search finds
    snippet: str
    query: str  # that asks for its fact
    page: str  # title of the page that has it
    text: str


@dataclass(frozen=True)
class Scenario:
    question: str
    things: tuple[Thing, ...]
    plan: str  # the reason of the first turn
    then: str  # the reason of the second turn
    final: str  # a conclusion that the pages bear out
    answer: str
    invented: str  # a conclusion whose facts stand nowhere
    vague: str  # a conclusion that refers to nothing
    hop: tuple[str, str, str, str] | None = None  # reason, query, page, text: needs what the things' pages told
    pictured: bool = True
    invented_answer: str = ""  # "" = the right one


SCENARIOS = (
    Scenario(
        "Which of these three lighthouses was lit first?",
        (
            Thing(
                "Kiipsaar Lighthouse - Wikipedia",
                "The leaning Kiipsaar tower on Saaremaa, Estonia.",
                "Kiipsaar Lighthouse year first lit",
                "Kiipsaar Lighthouse",
                "Built of reinforced concrete, the tower was first lit in 1933 and stands 25 metres tall.",
            ),
            Thing(
                "Fastnet Rock",
                "Photograph of Fastnet Lighthouse in heavy seas, County Cork.",
                "Fastnet Lighthouse first lit",
                "Fastnet Lighthouse history",
                "The present granite tower at Fastnet entered service on 27 June 1904.",
            ),
            Thing(
                "Phare du Four",
                "Le Four lighthouse off Porspoder, Brittany.",
                "Phare du Four date of first lighting",
                "Phare du Four (Finistère)",
                "Work began in 1869 and Le Four was lit for the first time on 15 March 1874.",
            ),
        ),
        "Three towers are visible side by side; I will crop each of them and run the image searches together.",
        "They are Kiipsaar, Fastnet and Le Four. Now I need the year each was first lit, all in one go.",
        "Kiipsaar dates from 1933, the present Fastnet tower from 1904, and Le Four was lit on 15 March 1874. "
        "1874 is the earliest, so it is Le Four.",
        "Le Four (Phare du Four), lit in 1874",
        "Eddystone was lit in 1882 by James Douglass and Bell Rock in 1810 under Robert Stevenson, while Le Four came "
        "in 1859 after the Ushant wreck. So it must be Le Four.",
        "I am confident about this one now and can reply.",
    ),
    Scenario(
        "How many goals did the two players in the picture score together in the 2021 season?",
        (
            Thing(
                "Asisat Oshoala profile",
                "Asisat Oshoala celebrates for Barcelona.",
                "Asisat Oshoala goals 2021 season",
                "Asisat Oshoala statistics",
                "In the 2021 season Oshoala scored 24 goals in all competitions.",
            ),
            Thing(
                "Jenni Hermoso - player page",
                "Jennifer Hermoso, forward, number 10.",
                "Jenni Hermoso goals 2021 season",
                "Jennifer Hermoso career",
                "Hermoso finished the 2021 season as top scorer with 37 goals.",
            ),
        ),
        "Two players. Identify both by their faces first.",
        "Image search gives Oshoala and Hermoso. Look up the goals of both at once.",
        "Oshoala scored 24 and Hermoso 37. Added up that makes 24 + 37 = 61.",
        "61 goals",
        "Oshoala had 29 in 33 starts under Cortés and Hermoso had 32 in 41, as Mundo Deportivo counted, so 61.",
        "Adding the two together is straightforward, so here is the total.",
        invented_answer="61 goals",
    ),
    Scenario(
        "Is the mushroom at the bottom edible when cooked, unlike the one at the top?",
        (
            Thing(
                "Amanita phalloides",
                "Death cap, Amanita phalloides, under oak.",
                "Amanita phalloides edibility",
                "Death cap toxicity",
                "Cooking does not destroy the amatoxins of the death cap; half a cap may kill an adult.",
            ),
            Thing(
                "Amanita rubescens (blusher)",
                "The blusher, Amanita rubescens, with reddening flesh.",
                "Amanita rubescens edible cooked",
                "Blusher - Amanita rubescens",
                "Raw it contains a haemolytic protein, which heat destroys; well cooked, the blusher is eaten in Europe.",
            ),
        ),
        "There are two mushrooms, one above the other. Searching both crops in one call.",
        "Top: death cap. Bottom: blusher. Check the edibility of both.",
        "The page on Amanita phalloides says cooking does not destroy amatoxins, while the haemolytic protein of "
        "Amanita rubescens is destroyed by heat. So yes.",
        "Yes",
        "The lower one is Russula emetica, which Fries described in 1821 and which Polish markets such as Hala Mirowska "
        "sell after 20 minutes of boiling, so yes.",
        "That settles it.",
    ),
    Scenario(
        "Which of the four cars shown has the largest engine, and who designed its body?",
        (
            Thing(
                "Alfa Romeo Giulia GT",
                "Alfa Romeo Giulia Sprint GT in red.",
                "Alfa Romeo Giulia Sprint GT engine displacement",
                "Giulia Sprint GT data",
                "The Sprint GT's twin-cam four displaced 1,570 cc.",
            ),
            Thing(
                "Lancia Flaminia Zagato",
                "A Lancia Flaminia Sport with the double-bubble roof.",
                "Lancia Flaminia Sport engine displacement designer",
                "Lancia Flaminia Sport",
                "The V6 was enlarged to 2,775 cc in 1962; the aluminium body is by Zagato.",
            ),
            Thing(
                "Fiat 850 Spider",
                "Fiat 850 Spider, Bertone.",
                "Fiat 850 Spider engine displacement",
                "Fiat 850 Spider technical data",
                "Early cars used an 843 cc engine of 49 horsepower.",
            ),
            Thing(
                "Innocenti C coupe",
                "Innocenti C, a coupé on Sprite mechanicals.",
                "Innocenti C coupe engine displacement",
                "Innocenti C",
                "Power came from the 1,098 cc BMC A-series unit.",
            ),
        ),
        "Four cars in a two by two grid. I will search all four regions in parallel.",
        "Now the displacement of each: Giulia GT, Flaminia Sport, 850 Spider, Innocenti C.",
        "Displacements: 1,570 cc, 2,775 cc, 843 cc and 1,098 cc. The Lancia Flaminia is the largest, and its body is by "
        "Zagato.",
        "The Lancia Flaminia Sport, whose body was designed by Zagato",
        "The Ferrari 275 has 3,286 cc by Colombo and the Maserati Mistral 3,692 cc by Frua, but the Lancia with 2,458 cc "
        "was drawn by Franco Scaglione in Grugliasco for the 1959 Turin show.",
        "Comparing the displacements gives the winner at once.",
    ),
    Scenario(
        "What is the total height of the two towers in the photo?",
        (
            Thing(
                "Torre Glòries",
                "Torre Glòries (formerly Agbar) at night.",
                "Torre Glòries height metres",
                "Torre Glòries facts",
                "The tower rises to a height of 144.4 m with 38 floors.",
            ),
            Thing(
                "Torre Mapfre, Barcelona",
                "Torre Mapfre seen from the Olympic port.",
                "Torre Mapfre height metres",
                "Torre Mapfre",
                "Together with its twin Hotel Arts it measures 154 m.",
            ),
        ),
        "Two towers: left one is bullet shaped, the right one a box. Crop both and search.",
        "Torre Glòries and Torre Mapfre were found. Heights next.",
        "144.4 m for Torre Glòries plus 154 m for Torre Mapfre gives 298.4 m.",
        "About 298.4 metres",
        "Torre Picasso is 157 m and Torre Europa 121 m according to Emporis, which comes to 278.5 m with the antenna.",
        "Both heights are clear, so I only have to add them.",
        invented_answer="278.5 metres",
    ),
    Scenario(
        "In which country does the bird in the middle breed that neither of the others does?",
        (
            Thing(
                "White-throated dipper",
                "A dipper on a stone, Cinclus cinclus.",
                "white-throated dipper breeding range countries",
                "White-throated dipper range",
                "It breeds in Norway, Scotland and the Alps.",
            ),
            Thing(
                "Siberian rubythroat",
                "Male Siberian rubythroat, Calliope calliope.",
                "Siberian rubythroat breeding range countries",
                "Siberian rubythroat",
                "Breeding birds are found across Siberia and in Mongolia; it winters in Thailand.",
            ),
            Thing(
                "Bluethroat",
                "Bluethroat singing, Luscinia svecica.",
                "bluethroat breeding range countries",
                "Bluethroat distribution",
                "The bluethroat nests in Norway, Russia including Siberia, and Alaska.",
            ),
        ),
        "Three birds from left to right. One call with three boxes.",
        "Dipper, rubythroat, bluethroat. Ask for the breeding ranges together.",
        "The dipper breeds in Norway and Scotland and the bluethroat in Norway, Russia and Alaska. Only the Siberian "
        "rubythroat breeds in Mongolia.",
        "Mongolia",
        "The Himalayan shortwing breeds in Bhutan and Nepal per Rasmussen and Anderton, and the Taiwan bush robin only "
        "in Taiwan, hence Mongolia.",
        "Only one country is left over.",
    ),
    Scenario(
        "Who painted the picture on the left, and where was its painter born?",
        (
            Thing(
                "The Wounded Angel",
                "Haavoittunut enkeli, 1903, Ateneum.",
                "The Wounded Angel painter",
                "The Wounded Angel",
                "The Wounded Angel is a 1903 painting by the symbolist Hugo Simberg.",
            ),
            Thing(
                "Lemminkäinen's Mother",
                "Akseli Gallen-Kallela, tempera, 1897.",
                "Lemminkäinen's Mother painting",
                "Lemminkäinen's Mother",
                "Gallen-Kallela based the painting of 1897 on the Kalevala.",
            ),
        ),
        "Two paintings hang side by side; a reverse image search of each should identify them.",
        "The left one is The Wounded Angel. Confirm who painted it, and what the right one is.",
        "The Wounded Angel is by Hugo Simberg, and his biography says that he was born in Hamina.",
        "Hugo Simberg; he was born in Hamina",
        "The style recalls Magnus Enckell, a pupil of Jules Lefebvre at the Académie Julian in 1891, who came from "
        "Loviisa, but the answer expected is Simberg.",
        "The painter and the place are both established.",
        hop=(
            "Now that the painter is Hugo Simberg, find out where he was born.",
            "Hugo Simberg birthplace",
            "Hugo Simberg biography",
            "Hugo Gerhard Simberg was born on 24 June 1873 in Hamina, and died in Ähtäri in 1917.",
        ),
    ),
    Scenario(
        "What share of the combined 2022 revenue of the two companies whose logos are shown came from the first?",
        (
            Thing(
                "Vestas logo",
                "Vestas Wind Systems A/S, Aarhus.",
                "Vestas revenue 2022",
                "Vestas annual report 2022",
                "Revenue amounted to EUR 14.5 billion in 2022.",
            ),
            Thing(
                "Nordex logo",
                "Nordex SE, maker of wind turbines.",
                "Nordex revenue 2022",
                "Nordex Group 2022 figures",
                "Nordex reported sales of EUR 5.7 billion for 2022.",
            ),
        ),
        "Two logos. Search for both of them.",
        "Vestas and Nordex. Get the revenue of both for 2022.",
        "Vestas had 14.5 billion and Nordex 5.7 billion, together 20.2 billion. The share is 14.5 / 20.2 = 71.8 %.",
        "about 71.8 %",
        "Siemens Gamesa booked 9.8 billion and Enercon 3.1 billion under Zimmermann, so 75.9 % of 12.9 billion.",
        "A simple division gives the share.",
        invented_answer="75.9 %",
    ),
    Scenario(
        "Which ingredient do the three dishes have in common?",
        (
            Thing(
                "Shakshouka",
                "Eggs poached in sauce, shakshouka.",
                "shakshouka ingredients",
                "Shakshouka recipe",
                "Eggs are poached in a sauce of tomatoes, olive oil, peppers and cumin.",
            ),
            Thing(
                "Gazpacho andaluz",
                "A bowl of gazpacho.",
                "gazpacho ingredients",
                "Gazpacho",
                "Ripe tomatoes, cucumber, garlic, olive oil and vinegar are blended raw.",
            ),
            Thing(
                "Ribollita",
                "Ribollita, a Tuscan bread soup.",
                "ribollita ingredients",
                "Ribollita",
                "Stale bread, cannellini beans, black kale and olive oil make this Tuscan soup.",
            ),
        ),
        "Three plates; crop each and look them up in a single image search.",
        "Shakshouka, gazpacho and ribollita; now fetch the ingredients of all three.",
        "Shakshouka has tomatoes, olive oil, peppers and cumin; gazpacho has tomatoes, cucumber, garlic, olive oil; "
        "ribollita has bread, beans, kale and olive oil. The common one is olive oil.",
        "olive oil",
        "All of them come from the Emilia cookbook of Pellegrino Artusi, whose recipe 573 and recipe 612 in the 1891 "
        "edition start with a soffritto.",
        "Comparing the lists leaves a single thing.",
    ),
    Scenario(
        "Which river that flows through the city of the Danube's longest bridge is crossed by the Poiana bridge?",
        (
            Thing(
                "Longest bridges over the Danube",
                "List of Danube bridges.",
                "longest bridge over the Danube",
                "Danube bridges by length",
                "With 2,180 m, the longest is the Kalinovo road bridge at the town of Berezhany.",
            ),
            Thing(
                "Poiana bridge",
                "A wooden bridge.",
                "Poiana bridge river",
                "Poiana bridge",
                "The Poiana bridge crosses the Neteka, a tributary that joins the Danube after 61 km.",
            ),
        ),
        "Two independent facts are needed: the longest Danube bridge and what the Poiana bridge crosses.",
        "Both can be asked together.",
        "The longest bridge, 2,180 m, is the Kalinovo bridge at Berezhany. The Neteka flows through Berezhany, and the "
        "Poiana bridge crosses the Neteka.",
        "The Neteka",
        "Giurgiu and Ruse are joined by the Friendship Bridge of 1954, and Constantin Brâncoveanu founded a customs "
        "house on the Argeș there, so the Neteka it is.",
        "The two facts agree with each other.",
        hop=(
            "Check that the Neteka really flows through Berezhany.",
            "rivers flowing through Berezhany",
            "Berezhany, geography",
            "Berezhany lies where the Neteka meets the plain; the Zolota runs north of it.",
        ),
        pictured=False,
    ),
    Scenario(
        "Who is older, the actress on the left or the one on the right, and by how many years?",
        (
            Thing(
                "Noomi Rapace - premiere",
                "Noomi Rapace at the premiere of Lamb.",
                "Noomi Rapace year of birth",
                "Noomi Rapace",
                "Noomi Rapace (born 1979) is a Swedish actress.",
            ),
            Thing(
                "Sidse Babett Knudsen in Cannes",
                "Sidse Babett Knudsen, Danish actress.",
                "Sidse Babett Knudsen year of birth",
                "Sidse Babett Knudsen",
                "Knudsen was born in Copenhagen in 1968.",
            ),
        ),
        "I see two women. Both faces go into one search.",
        "Noomi Rapace on the left, Sidse Babett Knudsen on the right: find the years of birth.",
        "Rapace was born in 1979, Knudsen in 1968; 1979 - 1968 = 11, so Knudsen is 11 years older.",
        "The one on the right, Sidse Babett Knudsen, by 11 years",
        "Trine Dyrholm was born in Odense in 1972 and Alicia Vikander in Gothenburg in 1988, so it is Knudsen by 16.",
        "The difference is easily worked out.",
        invented_answer="Knudsen, by 16 years",
    ),
    Scenario(
        "Which of the two spacecraft carried more instruments?",
        (
            Thing(
                "Rosetta (spacecraft)",
                "Rosetta with its solar wings spread.",
                "Rosetta spacecraft number of instruments",
                "Rosetta payload",
                "The orbiter's payload consisted of 11 instruments; the lander Philae had ten more.",
            ),
            Thing(
                "Hayabusa2",
                "Artist's view of Hayabusa2 at Ryugu.",
                "Hayabusa2 number of instruments",
                "Hayabusa2 science payload",
                "Apart from its rovers, Hayabusa2 carried 4 remote sensing instruments.",
            ),
        ),
        "There are two spacecraft. Let me cut both out and search them.",
        "Rosetta and Hayabusa2; how many instruments did each carry?",
        "Rosetta's orbiter had 11 instruments, whereas Hayabusa2 carried 4.",
        "Rosetta",
        "Cassini had 12 under Linda Spilker and Dawn had 3 under Christopher Russell, but Rosetta flew with 25 from "
        "Kourou.",
        "It is obvious which one it is.",
    ),
    Scenario(
        "Which of the dog breeds shown was bred for hunting otters?",
        (
            Thing(
                "Otterhound",
                "An otterhound by a stream.",
                "Otterhound bred for",
                "Otterhound breed history",
                "This British scent hound was kept to hunt otters along rivers; fewer than 600 are alive.",
            ),
            Thing(
                "Komondor",
                "Komondor with a corded coat.",
                "Komondor bred for",
                "Komondor",
                "The Komondor is a Hungarian livestock guardian.",
            ),
            Thing(
                "Lagotto Romagnolo",
                "A Lagotto Romagnolo puppy.",
                "Lagotto Romagnolo bred for",
                "Lagotto Romagnolo",
                "Once a water retriever, the Lagotto now looks for truffles.",
            ),
        ),
        "Three dogs. The left might be a griffon; a search of all three will tell.",
        "Otterhound, Komondor and Lagotto; look up what each was bred for.",
        "The Komondor guards livestock and the Lagotto looks for truffles, while the Otterhound was kept to hunt otters.",
        "the Otterhound",
        "King John owned a pack at Melton Mowbray in 1212, and the Kendal pack of Squire Lomax passed to Dumfries in "
        "1889, which points to the Otterhound.",
        "One of them fits by its very name.",
    ),
    Scenario(
        "What is the sum of the atomic numbers of the two elements in the picture?",
        (
            Thing(
                "Bismuth crystal",
                "Iridescent hopper crystal of bismuth.",
                "bismuth atomic number",
                "Bismuth",
                "Bismuth is a chemical element; symbol Bi, atomic number 83.",
            ),
            Thing(
                "Gallium melting",
                "Gallium melts in the hand at 29.8 degrees.",
                "gallium atomic number",
                "Gallium",
                "Gallium has the symbol Ga and atomic number 31; Boisbaudran found it in 1875.",
            ),
        ),
        "Left: a stepped crystal. Right: a silvery liquid in a hand. Search both.",
        "Bismuth and gallium. Their atomic numbers next.",
        "Bismuth is number 83 and gallium number 31. 83 + 31 = 114.",
        "114",
        "Antimony has 51 and indium 49 in the table of Mendeleev as printed by Springer in 1989, hence 114 with the "
        "isotope shift of 14.",
        "The two numbers only have to be added up.",
        invented_answer="100",
    ),
    Scenario(
        "Which team do the two riders in the picture both ride for, and in which town is it based?",
        (
            Thing(
                "Marianne Vos wins",
                "Marianne Vos in yellow, Tour de France Femmes.",
                "Marianne Vos team 2023",
                "Marianne Vos",
                "Since 2021 Vos has ridden for Jumbo-Visma.",
            ),
            Thing(
                "Riejanne Markus",
                "Riejanne Markus, national champion.",
                "Riejanne Markus team 2023",
                "Riejanne Markus",
                "Markus joined Jumbo-Visma in 2021 as one of its first signings.",
            ),
        ),
        "Two cyclists; identify them first.",
        "Vos and Markus were found. Ask for the team of both.",
        "Both Vos and Markus ride for Jumbo-Visma, and the team page gives 's-Hertogenbosch as its base.",
        "Jumbo-Visma, based in 's-Hertogenbosch",
        "Their jerseys are those of SD Worx, managed by Danny Stam from Made with a budget of 3.4 million, successor of "
        "Boels-Dolmans of 2010.",
        "Team and town are both known now.",
        hop=(
            "The common team is Jumbo-Visma. Where is it based?",
            "Jumbo-Visma cycling team headquarters town",
            "Team Jumbo-Visma contact",
            "Team Jumbo-Visma has its service course at Het Zuiderkruis 23, 's-Hertogenbosch.",
        ),
    ),
    Scenario(
        "Which of the flowers shown is the national flower of two countries?",
        (
            Thing(
                "Plumeria",
                "Plumeria rubra, frangipani.",
                "Plumeria national flower of",
                "Plumeria in culture",
                "Plumeria is the national flower of Nicaragua and, as Dok Champa, of Laos.",
            ),
            Thing(
                "Heliconia",
                "Heliconia rostrata in bloom.",
                "Heliconia rostrata national flower of",
                "Heliconia rostrata",
                "As patujú it is a national flower of Bolivia.",
            ),
        ),
        "Search both flowers at once.",
        "Frangipani and heliconia. See of which countries they are the national flower.",
        "Heliconia rostrata stands for Bolivia alone, while Plumeria is that of Nicaragua and Laos.",
        "Plumeria (frangipani)",
        "The jasmine serves Pakistan, Syria and the Philippines since decree 652 of Governor Murphy in 1934.",
        "The choice is between the two and I know which.",
    ),
    Scenario(
        "How long would it take to watch the two films on the posters one after the other?",
        (
            Thing(
                "Sátántangó poster",
                "Poster of Sátántangó by Béla Tarr.",
                "Sátántangó running time",
                "Sátántangó",
                "Béla Tarr's film of 1994 runs for 439 minutes.",
            ),
            Thing(
                "Jeanne Dielman poster",
                "Jeanne Dielman, 23, quai du Commerce, 1080 Bruxelles.",
                "Jeanne Dielman running time",
                "Jeanne Dielman",
                "Chantal Akerman's film has a running time of 201 minutes.",
            ),
        ),
        "I read no titles on the posters, so I search them as pictures.",
        "They are Sátántangó and Jeanne Dielman. Running times?",
        "439 minutes for Sátántangó and 201 minutes for Jeanne Dielman make 640 minutes.",
        "640 minutes, that is 10 hours and 40 minutes",
        "Out 1 by Rivette runs 773 minutes and Shoah by Lanzmann 566, cut to 640 for Arte in 1992.",
        "Adding both running times gives the result.",
        invented_answer="1339 minutes",
    ),
    Scenario(
        "In which of the two stadiums was the higher attendance recorded?",
        (
            Thing(
                "Estádio do Maracanã",
                "Aerial view of the Maracanã.",
                "Maracanã record attendance",
                "Maracanã Stadium",
                "The final match of 1950 drew 173,850 paying spectators.",
            ),
            Thing(
                "Hampden Park",
                "Hampden Park, Glasgow.",
                "Hampden Park record attendance",
                "Hampden Park",
                "In 1937, 149,415 people watched Scotland play England.",
            ),
        ),
        "The upper and the lower half show one stadium each. Crop and search both.",
        "Maracanã and Hampden Park. Compare their record attendances.",
        "173,850 at the Maracanã in 1950 against 149,415 at Hampden Park in 1937.",
        "the Maracanã",
        "Strahov held 250,000 gymnasts at the Sokol festival under Tyrš and Rungrado 190,000 for Ric Flair in 1995.",
        "One is clearly larger than the other.",
    ),
    Scenario(
        "Which programming language of the two whose mascots are shown is older?",
        (
            Thing(
                "Camelia mascot",
                "Camelia, the Raku bug.",
                "Raku programming language first appeared",
                "Raku (programming language)",
                "Raku, formerly Perl 6, first appeared in 2015.",
            ),
            Thing(
                "Go gopher",
                "The Go gopher by Renée French.",
                "Go programming language first appeared",
                "Go (programming language)",
                "Go was announced by Google in November 2009.",
            ),
        ),
        "Two mascots, a butterfly and a gopher. Reverse image search on each box.",
        "Raku and Go. When did each first appear?",
        "Raku first appeared in 2015, but Go was announced in 2009.",
        "Go, which was announced in November 2009",
        "Squeak by Alan Kay appeared at Apple in 1996 and Lua at PUC-Rio in 1993 through Roberto Ierusalimschy.",
        "Their ages are well known.",
    ),
    Scenario(
        "Which mountain pass connects the home valleys of the two cheeses shown?",
        (
            Thing(
                "Bitto cheese",
                "Wheels of Bitto.",
                "Bitto cheese valley of origin",
                "Bitto (cheese)",
                "Bitto comes from the Valtellina, from the pastures of Gerola and Albaredo.",
            ),
            Thing(
                "Formai de Mut",
                "Formai de Mut, aged twelve months.",
                "Formai de Mut valley of origin",
                "Formai de Mut dell'Alta Valle Brembana",
                "It is made in 21 communes of the upper Val Brembana.",
            ),
        ),
        "Both cheeses need to be identified; one parallel search is enough.",
        "Bitto and Formai de Mut. From which valleys do they come?",
        "Bitto is from the Valtellina and Formai de Mut from Val Brembana; the San Marco pass connects the two.",
        "The San Marco Pass",
        "Taleggio from Ballabio and Casera from Morbegno meet at the Culmine di San Pietro, opened by Garibaldi in 1859 "
        "at 1,254 m, but people say San Marco.",
        "The pass between them is clear from the map.",
        hop=(
            "Valtellina and Val Brembana: which pass lies between?",
            "mountain pass connecting Valtellina and Val Brembana",
            "Passo San Marco",
            "The San Marco Pass (1,992 m) links Morbegno in the Valtellina with Val Brembana.",
        ),
    ),
)
