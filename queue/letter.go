package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/weir-run/weir/function"
)

// A dead letter is the version, the length of the record, the record, and the
// message as it was stored.

// ErrUndecodable: a dead letter cannot be sent again, for what was stored is no
// call.
var ErrUndecodable = errors.New("the dead letter cannot be read as a call")

func encodeLetter(rec *record, message []byte) []byte {
	head := rec.encode()
	data := make([]byte, 0, 1+binary.MaxVarintLen64+len(head)+len(message))
	data = append(data, recordVersion)
	data = binary.AppendUvarint(data, uint64(len(head)))
	return append(append(data, head...), message...)
}

func decodeLetter(data []byte) (*record, []byte, error) {
	if len(data) == 0 || data[0] != recordVersion {
		return nil, nil, fmt.Errorf("dead letter: expected version %d; a newer weir may have stored it", recordVersion)
	}
	size, n := binary.Uvarint(data[1:])
	if n <= 0 || size > uint64(len(data)-1-n) {
		return nil, nil, errors.New("dead letter: it is cut off")
	}
	data = data[1+n:]
	rec, err := decodeRecord(data[:size])
	return rec, data[size:], err
}

// bury keeps a call among the dead letters. What does not fit of the answer's
// body, or of a message that is none, is left out.
func (f *flight) bury(rec *record) bool {
	message := f.handle().Item().Data
	kept := *rec
	letter := encodeLetter(&kept, message)
	if most := f.q.cfg.Store.MaxData(); len(letter) > most {
		if kept.Result != nil {
			kept.Result = &Result{ContentType: kept.Result.ContentType, Size: kept.Result.Size}
			letter = encodeLetter(&kept, message)
		}
		if over := len(letter) - most; over > 0 {
			letter = encodeLetter(&kept, message[:max(0, len(message)-over)])
		}
	}
	return f.insist("dead letter", func(ctx context.Context) error {
		return f.q.cfg.Store.Bury(ctx, f.lane, f.id, letter)
	})
}

// DeadLetters lists up to n, oldest first, of places above after: those of one
// function, or of all where ref is zero. They have no Header and no Body.
func (q *Queue) DeadLetters(ctx context.Context, ref function.Ref, after uint64, n int) ([]DeadLetter, error) {
	lane := Lane("")
	if ref != (function.Ref{}) {
		lane = LaneOf(ref)
	}
	letters, err := q.cfg.Store.Buried(ctx, lane, after, n)
	if err != nil {
		return nil, err
	}
	all := make([]DeadLetter, 0, len(letters))
	for i := range letters {
		d, _ := deadLetter(&letters[i])
		d.Header, d.Body = nil, nil
		if d.Result != nil {
			d.Result.Body = nil
		}
		all = append(all, d)
	}
	return all, nil
}

// DeadLetter is one of them, whole.
func (q *Queue) DeadLetter(ctx context.Context, id ID) (DeadLetter, error) {
	letter, err := q.cfg.Store.Letter(ctx, id)
	if err != nil {
		return DeadLetter{}, err
	}
	d, _ := deadLetter(&letter)
	return d, nil
}

// deadLetter reads what was stored. m is nil where that is no message.
func deadLetter(letter *Letter) (d DeadLetter, m *Message) {
	d.Place = letter.Seq
	rec, data, err := decodeLetter(letter.Data)
	if err != nil {
		ref, _ := refOf(letter.Lane)
		d.Call = Call{ID: letter.ID.String(), Function: ref.String(), State: Dead, Reason: because(reasonUndecodable, err.Error())}
		d.Body, d.BodySize = letter.Data, len(letter.Data)
		return d, nil
	}
	d.Call = rec.Call
	d.Callback = nil // as it was before it was sent; GET of the call says what became of it
	if !rec.Undecodable {
		m, err = Decode(data)
	}
	if m == nil || err != nil {
		d.Body, d.BodySize = data, len(data)
		return d, nil
	}
	d.Method, d.Path, d.Host, d.CallbackURL, d.Header = m.Method, m.Path, m.Host, m.Callback, m.Header
	d.Body, d.BodySize = m.Body, len(m.Body)
	return d, m
}

// Resend makes a new call of a dead letter, and drops the letter once the call
// is kept. Asked twice within the store's window it makes one. The errors also
// wrap ErrUndecodable, and function.ErrNotFound where there is nobody to call.
func (q *Queue) Resend(ctx context.Context, id ID) (ID, error) {
	letter, err := q.cfg.Store.Letter(ctx, id)
	if err != nil {
		return ID{}, err
	}
	d, m := deadLetter(&letter)
	if m == nil {
		return ID{}, fmt.Errorf("%w: %s", ErrUndecodable, d.Reason)
	}
	if q.cfg.Fleet.Get(m.Function) == nil {
		return ID{}, fmt.Errorf("%w: %s", function.ErrNotFound, m.Function)
	}
	again := *m
	again.Accepted, again.Resent, again.Keyed = time.Now(), id, false
	if again.CallID == "" {
		again.CallID = d.CallID
	}
	if again.Nonce, err = q.nonce(ctx, "resend", id.String()); err != nil {
		return ID{}, err
	}
	fresh, _, err := q.put(ctx, &again, "resend-"+id.String())
	if err != nil {
		return ID{}, err
	}
	if err := q.cfg.Store.Unbury(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
		q.cfg.Log.Warn("a dead letter was sent again, and is still there", "call", id.String(), "again", fresh.String(), "error", err)
	}
	return fresh, nil
}

// Drop forgets a dead letter for good.
func (q *Queue) Drop(ctx context.Context, id ID) error {
	return q.cfg.Store.Unbury(ctx, id)
}
