package queue

import "net/http"

// DeadLetter is a call that was given up, and the JSON of
// /system/dead-letters. Where it could not be decoded only ID, Function, State,
// Reason and Body are known, and Body is what was stored.
type DeadLetter struct {
	Call
	// Place is its place among the dead letters, by which they are listed.
	Place  uint64 `json:"place"`
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	Host   string `json:"host,omitempty"`
	// CallbackURL is where the answer was to go.
	CallbackURL string      `json:"callbackUrl,omitempty"`
	Header      http.Header `json:"header,omitempty"`
	// Body is base64 in JSON. A list has neither it nor Header; BodySize is
	// there all the same.
	Body     []byte `json:"body,omitempty"`
	BodySize int    `json:"bodySize"`
}
