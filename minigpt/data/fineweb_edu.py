"""FineWeb-Edu: educational web pages (Lozhkov et al. 2024).

https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu
"""

from minigpt.data.hub import Hub


class FineWebEdu(Hub):
    """A sample of FineWeb-Edu, streamed from the hub.

    config: sample-10BT (about 28 GB to download in full, 10 billion GPT-2 tokens), sample-100BT,
        sample-350BT, or a crawl such as CC-MAIN-2024-10.
    source: a local folder laid out like the hub's repository, read instead of it.
    """

    licence = "ODC-By 1.0, and Common Crawl's terms of use"

    def __init__(
        self, config: str = "sample-10BT", revision: str | None = None, source: str | None = None
    ) -> None:
        super().__init__("HuggingFaceFW/fineweb-edu", config, "train", "text", revision, source)
