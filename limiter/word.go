package limiter

// word is the whole state that admission needs, so that one compare-and-swap
// decides: from the low end
//
//	running  20 bits  slots taken
//	limit    20 bits  slots there are; all ones is no limit
//	queued    1 bit   somebody waits: every change then happens under mu
//	side      1 bit   which book the next event is entered in (account.go)
//	events   22 bits  starts, ends and readings so far, modulo 2^22
//
// The limit is inside so that an Acquire that read it before a Resize cannot
// succeed after it. The event count makes the word differ after every event,
// which ties an event's time to its place in the order (account.go).
type word uint64

const (
	fieldBits = 20
	field     = 1<<fieldBits - 1
	unlimited = field

	limitShift = fieldBits
	queuedBit  = word(1) << (2 * fieldBits)
	sideBit    = queuedBit << 1
	eventShift = 2*fieldBits + 2
	eventMask  = 1<<(64-eventShift) - 1
)

func (w word) running() uint64 { return uint64(w) & field }
func (w word) limit() uint64   { return uint64(w) >> limitShift & field }
func (w word) queued() bool    { return w&queuedBit != 0 }
func (w word) side() int       { return int(w >> (2*fieldBits + 1) & 1) }
func (w word) events() uint64  { return uint64(w) >> eventShift }

// free: a newcomer may have a slot now. Nobody is in line then.
func (w word) free() bool { return w.running() < w.limit() }

func (w word) start(n uint64) word { return w + word(n) + word(n)<<eventShift }
func (w word) end() word           { return w - 1 + 1<<eventShift }
func (w word) turn() word          { return (w ^ sideBit) + 1<<eventShift }
func (w word) withQueue() word     { return w | queuedBit }
func (w word) withoutQueue() word  { return w &^ queuedBit }

func (w word) withLimit(limit int) word {
	n := word(unlimited)
	if limit > 0 {
		n = word(min(limit, MaxLimit))
	}
	return w&^(field<<limitShift) | n<<limitShift
}
