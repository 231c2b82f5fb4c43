package queue

import (
	"net/http"
	"time"

	"github.com/weir-run/weir/function"
)

// Message is a call as it was sent.
type Message struct {
	Function function.Ref
	Method   string
	// Path is the raw path and query that the function is to see.
	Path   string
	Host   string
	Header http.Header
	Body   []byte
	// CallID is the trace id that the sender gave; without one it is the ID.
	CallID string
	// Callback is the X-Callback-Url, or empty.
	Callback string
	Accepted time.Time
	Nonce    Nonce
	// Keyed: it came with an Idempotency-Key, from which Nonce is made.
	Keyed bool
	// Resent is the call of which this is another try by hand: a dead letter
	// that was sent again. Zero for all others.
	Resent ID
}

// State is what a call is at.
type State string

// The states. The last three are final.
const (
	Queued    State = "queued"
	Running   State = "running"
	Retrying  State = "retrying"
	Succeeded State = "succeeded"
	// Failed: the function answered with a code that is not retried, or the
	// call was cancelled; Reason says which.
	Failed State = "failed"
	// Dead: given up, and kept among the dead letters; Reason says why.
	Dead State = "dead"
)

// Ended says whether the state is final.
func (s State) Ended() bool { return s == Succeeded || s == Failed || s == Dead }

// Call is what is known of a call, and the JSON of GET /async-call/ID. Times
// that are zero have not come.
type Call struct {
	ID       string `json:"id"`
	CallID   string `json:"callId"`
	Function string `json:"function"` // NAME.NAMESPACE
	State    State  `json:"state"`
	// Reason is why a call failed, is dead, or waits.
	Reason string `json:"reason,omitempty"`
	// Code is the last answer's status, 0 where there was none.
	Code int `json:"code,omitempty"`
	// Attempts counts calls that a handler began; MaxAttempts is how many
	// there may be.
	Attempts    int       `json:"attempts"`
	MaxAttempts int       `json:"maxAttempts,omitempty"`
	Accepted    time.Time `json:"accepted,omitzero"`
	Started     time.Time `json:"started,omitzero"` // the last attempt
	Ended       time.Time `json:"ended,omitzero"`   // the last attempt
	Next        time.Time `json:"next,omitzero"`    // the next attempt
	// Seconds is how long the last attempt took.
	Seconds  float64   `json:"seconds,omitempty"`
	Result   *Result   `json:"result,omitempty"`
	Callback *Callback `json:"callback,omitempty"`
	Resent   string    `json:"resent,omitempty"` // Message.Resent
}

// Result is the function's last answer, as far as it is kept.
type Result struct {
	ContentType string `json:"contentType,omitempty"`
	// Body is base64 in JSON. Size is the whole body's.
	Body []byte `json:"body,omitempty"`
	Size int64  `json:"size"`
}

// Callback is what became of a callback.
type Callback struct {
	URL      string    `json:"url"`
	State    State     `json:"state"`
	Code     int       `json:"code,omitempty"`
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	// Call is the ID of the call that it became, where it went to a function
	// of weir itself.
	Call string `json:"call,omitempty"`
}
