"""The groups of the report: which tests they run, what their tables show, what to know."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.speed.columns import Column, cpu_time, ratio, value

__all__ = ["GROUPS", "Group"]


@dataclass(frozen=True)
class Group:
    """A section of the page, made by one test module.

    Attributes:
        title: Heading.
        about: What is measured and how to read it, limits included.
        row_header: What the rows are.
        columns: The figures of a row.
        image: File name of its figure, if it has one.
        caption: What the figure shows.
    """

    title: str
    about: str
    row_header: str
    columns: tuple[Column, ...]
    image: str = ""
    caption: str = ""


GROUPS = {
    "attribute": Group(
        "The whole call",
        "ResNet34 with random weights, 224 x 224 images of noise, layers 2 to 4, against the bare "
        "forward pass under `inference_mode`. Every method runs through its own package at its own "
        "defaults, on its own copy of the model. Ours gives a 28 x 28 map from layers 2 to 4; "
        "`LayerGradCam` at layer4 gives 7 x 7 and differentiates only the pooling and the head, "
        "at layer2 it gives 28 x 28. Methods differ in what they compute, so this compares "
        "prices, not maps. Differences of a few percent between whole calls lie within the "
        "noise; the next section times what we add by itself. Prepared rows explain on the copy "
        "that `prepare()` makes, with batch norms folded and weights channels-last: it takes the "
        "memory of the weights a second time. They are compared with the model as the user has it; "
        "predictions alone gain as much from such a copy.",
        "method",
        (ratio("over the forward", "forward"), ratio("over ours, K=50", "ours"), cpu_time()),
        "speed_attribute.png",
        "CPU time of one call over that of the bare forward pass; left is cheaper.",
    ),
    "tail": Group(
        "What an explanation adds to the forward pass",
        "The tail, from kept activations to the finished map, each time right after a forward "
        "pass. The naive way resizes, concatenates and normalises the features, computes all "
        "distances and scatters; for unfitted use it runs scikit-learn's k-means (one start) "
        "on each image. The prototypes are noisy rows of the same images. Labels are asserted to "
        "be the naive ones except for ties of float32. With one layer there is "
        "nothing to segment, only the head's map.",
        "case",
        (
            ratio("over the forward", "forward"),
            ratio("over the naive way", "naive"),
            cpu_time(),
            value("labels equal", "labels_equal", ".2%"),
            value("inertia over the naive way's", "inertia", ".4f"),
        ),
        "speed_tail.png",
        "The tail over the forward pass as prototypes and images grow.",
    ),
    "explain": Group(
        "Segments, votes and ledgers of many classes",
        "The tails of `attribute` (the map), `explain` (also segments, class scores, ledger) and "
        "`predict` (class scores of one depth), from kept activations, each right after a forward "
        "pass; C x K is K prototypes of each of C classes. Pixels are scored once, for their "
        "segment and for the vote. All three are asserted to tell the same.",
        "call",
        (ratio("over the forward", "forward"), cpu_time()),
    ),
    "memory": Group(
        "Memory of an explanation",
        "Most bytes of live tensors during the second call, from the profiler's allocation events: "
        "the same on every run; of ours the first call too, which looks for the head. "
        "Weights and prototypes are there before and not counted, "
        "neither are NumPy's arrays (at most 16 bytes a pixel of the map) nor "
        "oneDNN's workspace. Kept is what the first call leaves behind.",
        "method",
        (
            value("peak, MiB", "peak_mib", ".1f"),
            value("over the forward's", "over_forward", ".2f"),
            value("first call", "first_over_forward", ".2f"),
            value("kept, MiB", "kept_mib", ".3f"),
            value("prototypes, MiB", "prototypes_mib", ".1f"),
        ),
        "speed_memory.png",
        "Peak of live tensors in a call on 8 images.",
    ),
    "large_picture": Group(
        "Memory of a large picture",
        "As above, of one picture of 2048 x 2048.",
        "method",
        (
            value("peak, MiB", "peak_mib", ".1f"),
            value("over the forward's", "over_forward", ".2f"),
            value("first call", "first_over_forward", ".2f"),
            value("kept, MiB", "kept_mib", ".3f"),
        ),
    ),
    "kmeans": Group(
        "Class-wise k-means in memory",
        "Rows are Student-t mixtures in 24 dimensions, mixed linearly to 512 and rectified. "
        "The base is a loop over classes of scikit-learn's `KMeans` with one start, its default. "
        "Inertias are recomputed in float64 from every method's centroids and summed over "
        "classes. faiss samples 256 rows a cluster unless told otherwise. Of 1,000 classes ours "
        "solves all classes in one call and scikit-learn the first twenty; times are a class. "
        "One codebook of 200 prototypes, where all runs once, is compared with faiss on all rows. "
        "Tensors are counted without the rows.",
        "solver",
        (
            ratio("time over the base", "scikit-learn, n_init=1"),
            ratio("time over faiss on all rows", "faiss, k-means++ start, all rows"),
            value("inertia over the base's", "inertia", ".3f"),
            cpu_time(),
            value("peak of its tensors, MiB", "peak_mib", ".0f"),
        ),
        "speed_kmeans.png",
        "Time and inertia over scikit-learn's with one start; lower left is better.",
    ),
    "fit_stream": Group(
        "One pass of bounded memory",
        "Inertia of the prototypes on all rows, over the best of six runs of scikit-learn's "
        "k-means on all rows; median and 90th percentile over classes and six seeds. Digits: "
        "stacked rows of a ResNet18 briefly trained on three digits; heavy tails: pooled "
        "embeddings from t(2.2) mixtures, where a row is a whole image, so that `whole images` is "
        "a uniform sample. `whole images` is solved by our own k-means, ten starts: the "
        "difference is the sample. The first row shows how far one run on everything scatters; "
        "less than that is no difference.",
        "method",
        (
            value("inertia, median", "inertia", ".4f"),
            value("90th percentile", "inertia_p90", ".4f"),
            value("rows a class", "rows_a_class", ",d"),
            cpu_time("CPU time of a fit"),
        ),
        "speed_stream.png",
        "Inertia on all rows: median (dot) and 90th percentile (end of the line).",
    ),
    "fit_memory": Group(
        "Memory of a fit",
        "Peak resident size of a fresh process that fits two convolutions' features of generated "
        "32 x 32 images in five classes, one pass. The first row is a second process of the "
        "same size, so its ratio is the noise. The fit's share is the peak less that after one "
        "explanation. The last column is arithmetic: what the rows of the finer depth would take.",
        "images",
        (
            value("peak, MiB", "peak_mib", ".0f"),
            value("over the first", "over_first", ".3f"),
            value("the fit's share, MiB", "fit_mib", ".0f"),
            value("all rows, MiB", "all_rows_mib", ",.0f"),
        ),
    ),
    "fit_step": Group(
        "Cost of a fit beside its forward passes",
        "A fit of 128 images, two classes, by ResNet34 at 224 x 224, in batches of 8. The one "
        "pass over the data contains the forward passes; its last quarter comes nearer to what "
        "every further image costs, as a full sample takes fewer rows of it (columns but the "
        "first divide medians, not rounds). Clustering, with the search for patches among the "
        "rows kept, depends on classes and prototypes, not on images, so its share falls as the "
        "data grow. The second table: distances of patches found so, over those of a search of "
        "all rows in a second pass, at the finest depth.",
        "fit",
        (
            ratio("whole fit over the forwards", "forward"),
            value("its pass", "sampling_over_forward", ".3f"),
            value("its last quarter", "late_over_forward", ".3f"),
            value("what follows over that pass", "solve_over_pass", ".3f"),
            value("rows kept", "rows_kept", ".0%"),
            value("median distance over the exact", "distance", ".3f"),
            cpu_time("CPU time of the fit"),
        ),
    ),
    "fit_loader": Group(
        "A fit from a loader",
        "The whole fit over the forward passes alone by the clock on the wall, as "
        "loaders' processes and the progress bar take their time elsewhere; the "
        "forward passes read images that lie in memory. ResNet34 at 224 x 224, one class, "
        "batches of 8, one thread. Other jobs on the machine tell here.",
        "data and loader",
        (ratio("whole fit over the forwards", "forward"), cpu_time("seconds of the fit")),
    ),
    "fit_classes": Group(
        "A fit of a thousand classes",
        "Generated images of 64 x 64, ResNet18, layers 2 to 4, five prototypes a class at each "
        "depth, batches of 50, in a process of its own. The pass is compared with bare forward "
        "passes of every tenth batch in the same process. What follows is k-means and the search "
        "for patches. Five times the images, `python -m benchmarks.speed.classes_process resnet18 "
        "1000 100`, took 3,353 MiB ([data sets of any size](large_data.md)).",
        "data",
        (
            value("pass over the forwards", "over_forward", ".3f"),
            value("ms an image", "image_ms", ".1f"),
            value("s after the pass", "solve_s", ".0f"),
            value("rows kept a class", "rows_a_class", ".0f"),
            value("peak before, MiB", "before_mib", ".0f"),
            value("peak, MiB", "peak_mib", ".0f"),
            value("bank's file, MiB", "bank_mib", ".1f"),
        ),
    ),
    "start": Group(
        "Import",
        "CPU time of a fresh process that imports torch, captum.attr and this package, over one "
        "that imports torch and captum.attr alone.",
        "line",
        (ratio("over torch and captum alone", "alone"), cpu_time()),
    ),
    "write_report": Group(
        "Report",
        "The HTML report of eight images of 64 x 64 with the nearest patches of every prototype, "
        "of a ResNet18 fitted on two images a class.",
        "bank",
        (
            cpu_time(),
            value("prototypes", "prototypes", ",d"),
            value("file, MiB", "file_mib", ".1f"),
        ),
    ),
    "device": Group(
        "On an accelerator",
        "ResNet34 at 224 x 224 by the clock, the accelerator's work finished, over its own "
        "forward pass; maps and segments are asserted to be the processor's. The run skips what "
        "needs an accelerator where there is none.",
        "call",
        (
            ratio("over the forward", "forward"),
            cpu_time("time"),
            value("largest difference from the processor's", "difference", ".1e"),
            value("labels equal", "labels_equal", ".2%"),
        ),
    ),
}
