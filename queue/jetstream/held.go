package jetstream

import (
	"sync"
	"time"
)

// held are a lane's items that were delivered to this weir, or put off by it,
// and until when. The server counts items that are due again, but were not
// fetched yet, as delivered still; with this they are told apart.
type held struct {
	mu    sync.Mutex
	until map[uint64]time.Time
}

func (h *held) keep(seq uint64, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until == nil {
		h.until = map[uint64]time.Time{}
	}
	h.until[seq] = until
}

// extend does nothing for an item that is not there: it has ended meanwhile.
func (h *held) extend(seq uint64, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.until[seq]; ok {
		h.until[seq] = until
	}
}

func (h *held) drop(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if delete(h.until, seq); len(h.until) == 0 {
		h.until = nil // a map does not shrink
	}
}

// dropDue forgets what was due before a moment at which the server had nothing
// to deliver: somebody else has it, or it is gone.
func (h *held) dropDue(before time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for seq, until := range h.until {
		if until.Before(before) {
			delete(h.until, seq)
		}
	}
}

func (h *held) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = nil
}

// count is how many there are, and how many of them are due.
func (h *held) count(now time.Time) (all, due int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, until := range h.until {
		if !until.After(now) {
			due++
		}
	}
	return len(h.until), due
}
