// Package queue holds the rules of asynchronous calls: what is kept of a call,
// when it runs and on how many pods at once, what counts as an attempt, when
// the next one is, and what becomes of its answer. Where calls are kept is a
// Store's business, and how they reach a pod is that of Pods.
//
// A call is processed at least once. It is acknowledged to its sender after the
// Store has it, and leaves the Store after its outcome is there.
package queue

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// What a Store, and with it a Queue, may answer. They are wrapped with what
// happened.
var (
	// ErrNotFound: no such call, or not any more.
	ErrNotFound = errors.New("no such call")
	// ErrFull: a bound of the store is reached; later there may be room.
	ErrFull = errors.New("the queue is full")
	// ErrAway: the store cannot be reached or cannot write. Whether it has
	// what it was given is not known.
	ErrAway = errors.New("the queue's store is away")
	// ErrNotOpen: the store has not been opened, so it has nothing.
	ErrNotOpen = errors.New("the queue's store is not open yet")
	// ErrTooLarge: the store never takes a message of this size.
	ErrTooLarge = errors.New("the message is too large for the queue's store")
	// ErrEnded: the call has an outcome already.
	ErrEnded = errors.New("the call has ended")
)

// Store keeps calls durably. It is safe for use by many goroutines and by
// several weirs at once. Its methods end with their context; errors wrap those
// above.
type Store interface {
	// Put appends data to a lane and returns its place once it is durable.
	// Places of one store rise, and none is given twice. With a key, a second
	// Put of the same lane and key within the store's window stores nothing
	// and returns the place of the first, and true.
	Put(ctx context.Context, lane Lane, data []byte, key string) (seq uint64, duplicate bool, err error)
	// Get is what was put at a place and has not been acknowledged or removed.
	Get(ctx context.Context, seq uint64) (Item, error)
	// Remove takes an item out of its lane. One that is delivered already is
	// not delivered again.
	Remove(ctx context.Context, seq uint64) error
	// Oldest is the first item of a lane that was not acknowledged or removed,
	// delivered or not.
	Oldest(ctx context.Context, lane Lane) (Item, error)
	// Fetch delivers up to n items of a lane, oldest first, and waits at most
	// wait for the first of them. Fewer, and none, are no error. Each item is
	// delivered to one weir. One that was not acknowledged, retried or
	// extended for the store's lease is delivered again, also when whoever had
	// it was killed.
	Fetch(ctx context.Context, lane Lane, n int, wait time.Duration) ([]Delivery, error)
	// Backlogs counts what is in each lane that is not empty.
	Backlogs(ctx context.Context) (map[Lane]Backlog, error)

	// Save keeps a record of a call in the place of an earlier one, for keep;
	// 0 is until it is saved anew or forgotten. The store may drop the oldest
	// records when they take too much.
	Save(ctx context.Context, id ID, record []byte, keep time.Duration) error
	// Load is the record of a call.
	Load(ctx context.Context, id ID) ([]byte, error)
	// Find is a call of which a record is kept, by its nonce.
	Find(ctx context.Context, nonce Nonce) (ID, error)
	// Forget drops a record. That there is none is no error.
	Forget(ctx context.Context, id ID) error

	// Bury keeps a dead letter until it is dug up; a second of the same call
	// stores nothing.
	Bury(ctx context.Context, lane Lane, id ID, letter []byte) error
	// Buried lists up to n dead letters of a lane, or of all where lane is
	// empty, oldest first, of places above after.
	Buried(ctx context.Context, lane Lane, after uint64, n int) ([]Letter, error)
	// Letter is one of them by its call.
	Letter(ctx context.Context, id ID) (Letter, error)
	// Unbury drops one.
	Unbury(ctx context.Context, id ID) error

	// Tell lets every weir that shares the store hear news, this one too. News
	// may be lost.
	Tell(news []byte) error
	// Heard is what the others tell. It is the same channel each time.
	Heard() <-chan []byte

	// Secret is random, the same for every weir that shares the store, and
	// outlives all of them.
	Secret(ctx context.Context) ([32]byte, error)
	// MaxData is the most bytes that Put takes.
	MaxData() int
	// Lease is how long a delivered item may go without Extend.
	Lease() time.Duration
}

// Lane is a line of a Store: of a function's calls, or of callbacks.
type Lane string

// Callbacks is the lane of answers that are on their way to their
// X-Callback-Url.
const Callbacks Lane = "callback"

const calls = "call."

// LaneOf is the lane of a function's calls: "call.NAMESPACE.NAME".
func LaneOf(ref function.Ref) Lane { return Lane(calls + ref.Namespace + "." + ref.Name) }

// Item is what is kept at one place of a lane.
type Item struct {
	Lane   Lane
	Seq    uint64
	Data   []byte
	Stored time.Time
}

// Delivery is an item that this weir was given to work on.
type Delivery interface {
	Item() Item
	// Times is how often it was delivered, this time included.
	Times() int
	// Ack ends the item; it returns when the store knows.
	Ack(ctx context.Context) error
	// Retry has it delivered again after delay.
	Retry(ctx context.Context, delay time.Duration) error
	// Extend begins its lease anew.
	Extend() error
}

// Backlog is how much is in a lane: Items in all, Delivered of them to a weir
// or put off by Retry.
type Backlog struct{ Items, Delivered int }

// Letter is a dead letter. Seq is its place among them.
type Letter struct {
	Lane Lane
	ID   ID
	Seq  uint64
	Data []byte
}

// Pods is how calls reach a function: the gateway.
type Pods interface {
	// Room is how many calls more this weir may give to the function's pods
	// at this moment so that all would run at once: pods that have started,
	// this weir's share of their limits, less what it has there already.
	// started is how many those pods are. changed is closed when the answer
	// may be another.
	Room(e *fleet.Entry) (room, started int, changed <-chan struct{})
	// Deliver calls the function as the gateway calls it for a client: it is
	// woken, and the call waits for a place. r has the raw path and query in
	// RequestURI. Of the answer's body at most limit bytes are kept, the rest
	// is read and dropped. It calls Placed with r's context as soon as Room
	// counts the call.
	Deliver(e *fleet.Entry, r *http.Request, limit int64) Answer
}

// Placed tells the Queue that what Room says counts a call, with a pod or as
// one that waits for it. ctx is that of the call's request. Without, a Queue
// takes long to see that there is more room while calls run.
func Placed(ctx context.Context) {
	if f, ok := ctx.Value(placedKey{}).(*flight); ok {
		f.counted.Store(true)
	}
}

type placedKey struct{}

// Answer is what became of one delivery to a pod.
type Answer struct {
	// Began: a handler may have begun it; else it was refused, and no attempt.
	Began bool
	// Status, Header and Body are the function's, or the gateway's own where
	// Reason is not empty: then it says why there is no answer of the
	// function's.
	Status int
	Header http.Header
	Body   []byte
	// Size is the length of the whole body; Body has its beginning.
	Size   int64
	Reason string
	// Refused says that a pod refused it (429 or 503 of its watchdog), however
	// it ended.
	Refused bool
	Took    time.Duration
}
