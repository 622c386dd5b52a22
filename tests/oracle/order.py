"""What a run draws by chance, written down a second time from common/random.h's words: which samples are held out,
in what order the others come, and which of several captions a sample trains. Standard library only.
"""

CAPTION, ORDER, SPLIT = 3, 4, 6  # enum bl_random_purpose
WORD, LONG = 2**32 - 1, 2**64 - 1


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011): four words from a counter of four and a key of two."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return c


def words(x):
    return x & WORD, x >> 32


def mix(a, b):
    """splitmix64's finaliser over a + golden ratio * (b + 1)."""
    z = (a + 0x9E3779B97F4A7C15 * (b + 1)) & LONG
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & LONG
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & LONG
    return z ^ (z >> 31)


def draw(seed, purpose, a, b):
    return philox(words(a) + words(b), words(mix(seed, purpose)))


def permute(seed, epoch, n, i):
    """Place i of an epoch -> index below n: six Feistel rounds over 2^(2 half) >= n, walked until below n."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    key = words(mix(seed, ORDER))
    while True:
        left, right = i >> half, i & (2**half - 1)
        for step in range(6):
            left, right = right, left ^ (philox((right, *words(epoch), step), key)[0] & (2**half - 1))
        i = left << half | right
        if i < n:
            return i


def choose(seed, epoch, sample, count):
    """Which of `count` captions a sample trains in an epoch."""
    return draw(seed, CAPTION, epoch, sample)[0] * count >> 32


def held_out(seed, hashes, wanted):
    """The `wanted` different images (by SHA-256 of the file, bytes) that validate; hashes: of all samples."""
    def place(digest):
        drawn = draw(seed, SPLIT, int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
        return drawn[1] << 32 | drawn[0], digest

    return set(sorted(set(hashes), key=place)[:wanted])
