package jetstream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weir-run/weir/queue"
)

const (
	// blockBytes is how much the server reads to find one item, and keeps in
	// this process's memory for blockKept.
	blockBytes = 8 << 20
	blockKept  = 12 * time.Second
	// maxWarm is how many such reads may be in memory at once: 16 of them
	// and their neighbours are 256 MiB, and a queue of 128 MiB has no more.
	maxWarm = 16
	// warmWait is how long a Get waits for others' to leave.
	warmWait = 2 * time.Second
)

// warm bounds what Gets of a long queue, all over it, keep in this process's
// memory: a thousand of them are a GiB for ten seconds otherwise. Stretches of
// places stand for the server's blocks, which nobody tells.
type warm struct {
	mu    sync.Mutex
	width uint64 // places in a block; 0 is not known yet
	until map[uint64]time.Time
}

// measure says how many items take how many bytes.
func (w *warm) measure(items, bytes uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if items == 0 || bytes == 0 {
		return
	}
	width := max(blockBytes/max(bytes/items, 1), 1)
	if width > w.width*2 || width < w.width/2 { // else the stretches stay
		w.width = width
	}
}

// enter waits until the place's block may be read.
func (w *warm) enter(ctx context.Context, seq uint64) error {
	until := time.Now().Add(warmWait)
	for {
		wait := w.try(seq, time.Now())
		if wait == 0 {
			return nil
		}
		left := time.Until(until)
		if left <= 0 {
			return fmt.Errorf("item %d: %w: too many calls of a long queue are asked for at once; ask again", seq, queue.ErrAway)
		}
		if !pause(ctx, min(wait, left)) {
			return fmt.Errorf("item %d: %w: %w", seq, queue.ErrAway, ctx.Err())
		}
	}
}

// try is 0 when it may be read, else how long until another one leaves.
func (w *warm) try(seq uint64, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	stretch := seq / max(w.width, 1<<10)
	next := blockKept
	for s, until := range w.until {
		if left := until.Sub(now); left <= 0 {
			delete(w.until, s)
		} else {
			next = min(next, left)
		}
	}
	if _, is := w.until[stretch]; !is && len(w.until) >= maxWarm {
		return next
	}
	if w.until == nil {
		w.until = map[uint64]time.Time{}
	}
	w.until[stretch] = now.Add(blockKept)
	return 0
}
