package queue

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// recordVersion is that of records and dead letters.
const recordVersion = 1

// record is what is kept of a call that a handler was asked to begin.
type record struct {
	Version int `json:"v"`
	Call
	// Refusals counts deliveries that no handler began, since the last one
	// that did.
	Refusals int `json:"refusals,omitempty"`
	// Undecodable: of a dead letter whose message could not be read.
	Undecodable bool `json:"undecodable,omitempty"`
}

func (r *record) encode() []byte {
	kept := *r
	kept.Version = recordVersion
	data, err := json.Marshal(&kept)
	if err != nil {
		// Its types have no value that cannot be written, but for times beyond
		// the year 9999, which are never made.
		panic(err)
	}
	return data
}

func decodeRecord(data []byte) (*record, error) {
	r := &record{}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("record of a call: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("record of a call: it has version %d, expected %d; a newer weir may have stored it", r.Version, recordVersion)
	}
	return r, nil
}

// newRecord is of a call of which nothing is known but that it is queued.
func newRecord(id ID, m *Message) *record {
	r := &record{Call: Call{ID: id.String(), CallID: m.CallID, Function: m.Function.String(), State: Queued, Accepted: m.Accepted}}
	if r.CallID == "" {
		r.CallID = r.ID
	}
	if m.Resent != (ID{}) {
		r.Resent = m.Resent.String()
	}
	return r
}
