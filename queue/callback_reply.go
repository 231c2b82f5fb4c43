package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/function"
)

// reply is an item of the lane Callbacks: what a call's X-Callback-Url is told
// when the call has ended.
type reply struct {
	Call     ID
	CallID   string
	Function function.Ref
	URL      string
	// State and Reason are those that the call ended with.
	State  State
	Reason string
	// Status, Header and Body are those of the last answer. Size is the whole
	// body's; Body may have only its beginning, and Header may lack lines:
	// then HeaderCut is set.
	Status    int
	Header    http.Header
	HeaderCut bool
	Body      []byte
	Size      int64
	Took      time.Duration
	Ended     time.Time
	// Attempts is how many handlers began the call, MaxAttempts how many might.
	Attempts, MaxAttempts int
	// Depth is how many callbacks led here, each to a call that had one of its
	// own; this one counts.
	Depth int
}

// replyVersion is the first byte of what encode writes.
const replyVersion = 1

// What is kept of an answer's head: a receiver that bounds its own at 64 KiB,
// as many do, must be able to take it with the lines that weir adds.
const (
	maxReplyHeader = 48 << 10
	maxReplyLines  = 500
)

// maxReplyText bounds each text of a reply that is read: no line is longer
// than the head it is of, and no URL than that.
const maxReplyText = 64 << 10

// encode is what decodeReply reads. Of one reply it is always the same.
func (r *reply) encode() []byte {
	size := 256 + len(r.CallID) + len(r.URL) + len(r.Reason) + len(r.Body)
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(value) + 6
		}
	}
	out := append(make([]byte, 0, size), replyVersion)
	out = append(out, r.Call.Nonce[:]...)
	out = binary.AppendUvarint(out, r.Call.Seq)
	for _, text := range r.texts() {
		out = append(binary.AppendUvarint(out, uint64(len(*text))), *text...)
	}
	for _, n := range []int64{int64(r.Status), r.Size, int64(r.Took), int64(r.Attempts), int64(r.MaxAttempts), int64(r.Depth)} {
		out = binary.AppendUvarint(out, uint64(max(n, 0)))
	}
	out = binary.AppendVarint(out, r.Ended.UnixNano())
	out = r.encodeHeader(out)
	out = binary.AppendUvarint(out, uint64(len(r.Body)))
	return append(out, r.Body...)
}

// texts are the fields that are text, in the order of the stored form.
func (r *reply) texts() []*string {
	return []*string{&r.CallID, &r.Function.Name, &r.Function.Namespace, &r.URL, (*string)(&r.State), &r.Reason}
}

func (r *reply) encodeHeader(out []byte) []byte {
	names := make([]string, 0, len(r.Header))
	lines := uint64(0)
	for name, values := range r.Header {
		names = append(names, name)
		lines += uint64(len(values))
	}
	slices.Sort(names)
	lines <<= 1
	if r.HeaderCut {
		lines |= 1
	}
	out = binary.AppendUvarint(out, lines)
	for _, name := range names {
		for _, value := range r.Header[name] {
			out = append(binary.AppendUvarint(out, uint64(len(name))), name...)
			out = append(binary.AppendUvarint(out, uint64(len(value))), value...)
		}
	}
	return out
}

// errReply: what is stored is no reply.
var errReply = errors.New("no reply as this version stores it")

// decodeReply takes what encode wrote, and nothing else. The body is part of
// data.
func decodeReply(data []byte) (*reply, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("%w: it is empty", errReply)
	}
	if data[0] != replyVersion {
		return nil, fmt.Errorf("%w: it has version %d, expected %d; a newer weir may have stored it", errReply, data[0], replyVersion)
	}
	d := replyReader{data: data[1:]}
	r := &reply{}
	copy(r.Call.Nonce[:], d.take("nonce", uint64(len(r.Call.Nonce))))
	r.Call.Seq = d.number("place", math.MaxUint64)
	for _, text := range r.texts() {
		*text = d.text("text")
	}
	r.Status = int(d.number("status", 999))
	r.Size = int64(d.number("size", math.MaxInt64))
	r.Took = time.Duration(d.number("duration", math.MaxInt64))
	for _, n := range []*int{&r.Attempts, &r.MaxAttempts, &r.Depth} {
		*n = int(d.number("count", math.MaxInt32))
	}
	r.Ended = d.time("end")
	r.decodeHeader(&d)
	if body := d.take("body", d.number("body", math.MaxInt64)); len(body) > 0 {
		r.Body = body
	}
	if d.err == nil && len(d.data) > 0 {
		d.fail("end", fmt.Sprintf("%d bytes follow", len(d.data)))
	}
	if d.err == nil && (!r.State.Ended() || r.Size < int64(len(r.Body))) {
		d.fail("reply", "its state or size cannot be")
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

func (r *reply) decodeHeader(d *replyReader) {
	lines := d.number("header", 2*maxReplyLines+1)
	r.HeaderCut = lines&1 != 0
	r.Header = http.Header{}
	last := ""
	for range lines >> 1 {
		name, value := d.text("name"), d.text("value")
		if d.err != nil {
			return
		}
		if name == "" || name < last {
			d.fail("header", "names are not in order")
			return
		}
		last = name
		r.Header[name] = append(r.Header[name], value)
	}
}

// replyReader reads until the first fault.
type replyReader struct {
	data []byte
	err  error
}

func (d *replyReader) fail(what, why string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s: %s", errReply, what, why)
	}
}

// number takes only the shortest form of a number.
func (d *replyReader) number(what string, most uint64) uint64 {
	n, size := binary.Uvarint(d.data)
	switch {
	case d.err != nil:
		return 0
	case size <= 0 || size > 1 && d.data[size-1] == 0:
		d.fail(what, "expected a number")
		return 0
	case n > most:
		d.fail(what, fmt.Sprintf("%d is more than %d", n, most))
		return 0
	}
	d.data = d.data[size:]
	return n
}

func (d *replyReader) time(what string) time.Time {
	n := d.number(what, math.MaxUint64)
	ns := int64(n >> 1)
	if n&1 != 0 {
		ns = ^ns
	}
	return time.Unix(0, ns).UTC()
}

func (d *replyReader) take(what string, n uint64) []byte {
	if d.err == nil && n > uint64(len(d.data)) {
		d.fail(what, fmt.Sprintf("expected %d bytes, there are %d", n, len(d.data)))
	}
	if d.err != nil {
		return nil
	}
	taken := d.data[:n:n]
	d.data = d.data[n:]
	return taken
}

func (d *replyReader) text(what string) string {
	return string(d.take(what, d.number(what, maxReplyText)))
}

// encodeWithin is encode in at most size bytes: the body is cut, then the
// header left out. What remains is bounded by what a call may be called.
func (r *reply) encodeWithin(size int) []byte {
	data := r.encode()
	if over := len(data) - size; over > 0 && len(r.Body) > 0 {
		r.Body = r.Body[:max(0, len(r.Body)-over)]
		data = r.encode()
	}
	if len(data) > size && len(r.Header) > 0 {
		r.Header, r.HeaderCut = nil, true
		data = r.encode()
	}
	return data
}

// replyHeader is what a callback passes on of an answer's head: all that is
// not of the connection it came by, in at most maxReplyHeader bytes. cut says
// that lines were left out; those are the longest.
func replyHeader(h http.Header) (kept http.Header, cut bool) {
	kept = make(http.Header, len(h))
	named := strings.ToLower(strings.Join(h["Connection"], ","))
	size, lines := 0, 0
	type line struct {
		name string
		size int
	}
	var all []line
	for name, values := range h {
		if ofConnection(name) || named != "" && slices.Contains(tokens(named), strings.ToLower(name)) {
			continue
		}
		l := line{name: name}
		for _, value := range values {
			l.size += len(name) + len(value) + len(": \r\n")
		}
		kept[name] = values
		all = append(all, l)
		size, lines = size+l.size, lines+len(values)
	}
	if size <= maxReplyHeader && lines <= maxReplyLines {
		return kept, false
	}
	slices.SortFunc(all, func(a, b line) int {
		if a.size != b.size {
			return b.size - a.size
		}
		return strings.Compare(a.name, b.name)
	})
	for _, l := range all {
		if size <= maxReplyHeader && lines <= maxReplyLines {
			break
		}
		size, lines = size-l.size, lines-len(kept[l.name])
		delete(kept, l.name)
	}
	return kept, true
}

func tokens(list string) []string {
	all := strings.Split(list, ",")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

// ofConnection says whether a header of an answer says nothing to whom a
// callback goes: it is of the connection that the answer came by, of its own
// length, or one that only weir and its watchdogs say.
func ofConnection(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "Host", "Content-Length",
		contract.HeaderReject, contract.HeaderInternal:
		return true
	}
	return false
}
