package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-run/weir/function"
)

// A stored message is
//
//	version  one byte
//	head     its length
//	body     its length
//	head     namespace, name, method, path, host, call ID, callback;
//	         accepted as seconds of Unix time and nanoseconds; nonce;
//	         the sum of keyed and resent, and with resent the nonce and place
//	         of the call that was;
//	         the number of header names, and of each, in rising order,
//	         the name, the number of its values, and the values
//	body
//
// where a text is its length and its bytes, and every number is a varint of
// package binary in its shortest form. A message has one form only.
const messageVersion = 1

// What else is known of a message, in one number.
const (
	markKeyed  = 1 << iota // it came with an Idempotency-Key
	markResent             // a dead letter was sent again
	allMarks   = markKeyed | markResent
)

// Encode is the message as a Store keeps it. What must not be kept is the
// caller's to drop.
func (m *Message) Encode() []byte {
	var few [fewNames]headerLine
	lines := few[:0]
	for name, values := range m.Header {
		lines = append(lines, headerLine{name, values})
	}
	slices.SortFunc(lines, func(a, b headerLine) int { return strings.Compare(a.name, b.name) })
	head := m.headSize(lines)
	data := make([]byte, 0, 1+2*binary.MaxVarintLen64+head+len(m.Body))
	data = append(data, messageVersion)
	data = binary.AppendUvarint(data, uint64(head))
	data = binary.AppendUvarint(data, uint64(len(m.Body)))
	for _, text := range m.texts() {
		data = appendText(data, text)
	}
	data = binary.AppendVarint(data, m.Accepted.Unix())
	data = binary.AppendUvarint(data, uint64(m.Accepted.Nanosecond()))
	data = append(data, m.Nonce[:]...)
	data = append(data, m.marks())
	if m.Resent != (ID{}) {
		data = append(data, m.Resent.Nonce[:]...)
		data = binary.AppendUvarint(data, m.Resent.Seq)
	}
	data = appendHeader(data, lines)
	return append(data, m.Body...)
}

func (m *Message) texts() [7]string {
	return [...]string{m.Function.Namespace, m.Function.Name, m.Method, m.Path, m.Host, m.CallID, m.Callback}
}

func (m *Message) marks() (sum byte) {
	if m.Keyed {
		sum |= markKeyed
	}
	if m.Resent != (ID{}) {
		sum |= markResent
	}
	return sum
}

func (m *Message) headSize(lines []headerLine) int {
	n := varintSize(m.Accepted.Unix()) + uvarintSize(uint64(m.Accepted.Nanosecond())) + len(m.Nonce) + 1
	for _, text := range m.texts() {
		n += textSize(text)
	}
	if m.Resent != (ID{}) {
		n += len(m.Resent.Nonce) + uvarintSize(m.Resent.Seq)
	}
	n += uvarintSize(uint64(len(lines)))
	for _, line := range lines {
		n += textSize(line.name) + uvarintSize(uint64(len(line.values)))
		for _, value := range line.values {
			n += textSize(value)
		}
	}
	return n
}

type headerLine struct {
	name   string
	values []string
}

// fewNames is as many header names as most requests have; more cost an
// allocation.
const fewNames = 32

func appendHeader(data []byte, lines []headerLine) []byte {
	data = binary.AppendUvarint(data, uint64(len(lines)))
	for _, line := range lines {
		data = appendText(data, line.name)
		data = binary.AppendUvarint(data, uint64(len(line.values)))
		for _, value := range line.values {
			data = appendText(data, value)
		}
	}
	return data
}

func appendText(data []byte, text string) []byte {
	return append(binary.AppendUvarint(data, uint64(len(text))), text...)
}

func textSize(text string) int { return uvarintSize(uint64(len(text))) + len(text) }

func uvarintSize(n uint64) int {
	size := 1
	for ; n >= 1<<7; n >>= 7 {
		size++
	}
	return size
}

func varintSize(n int64) int { return uvarintSize(uint64(n)<<1 ^ uint64(n>>63)) }

// Decode reads what Encode wrote, and nothing else. The Body is part of data.
// What it allocates is bounded by the length of data, whatever that says.
func Decode(data []byte) (*Message, error) {
	if len(data) == 0 {
		return nil, errors.New("message: empty")
	}
	if data[0] != messageVersion {
		return nil, fmt.Errorf("message: version %d, of which this weir knows %d only; read it with the weir that stored it", data[0], messageVersion)
	}
	r := messageReader{rest: string(data[1:min(len(data), 1+2*binary.MaxVarintLen64)])}
	head, body := r.number("length of the head"), r.number("length of the body")
	if r.err != nil {
		return nil, r.err
	}
	rest := data[1+uvarintSize(head)+uvarintSize(body):]
	if n := uint64(len(rest)); head > n || body != n-head {
		return nil, fmt.Errorf("message: %d bytes, of a head of %d and a body of %d", n, head, body)
	}
	m := &Message{}
	if body > 0 {
		m.Body = slices.Clip(rest[head:])
	}
	if err := m.decodeHead(string(rest[:head])); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Message) decodeHead(head string) error {
	r := messageReader{rest: head}
	m.Function.Namespace, m.Function.Name = r.text("namespace"), r.text("name")
	m.Method, m.Path, m.Host = r.text("method"), r.text("path"), r.text("host")
	m.CallID, m.Callback = r.text("call ID"), r.text("callback")
	m.Accepted = r.time("time")
	m.Nonce = r.nonce("nonce")
	sum := r.number("sum of marks")
	m.Keyed = sum&markKeyed != 0
	if sum&markResent != 0 {
		m.Resent = ID{r.nonce("nonce of the resent call"), r.number("place of the resent call")}
		if m.Resent == (ID{}) {
			r.fail("the resent call has no ID")
		}
	}
	if sum > allMarks {
		r.fail("the sum of marks is %d, of at most %d", sum, allMarks)
	}
	m.Header = r.header()
	if r.err == nil && r.rest != "" {
		r.fail("%d bytes after the header", len(r.rest))
	}
	if r.err != nil {
		return r.err
	}
	if _, err := function.ParseRef(m.Function.String(), ""); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	return nil
}

// messageReader takes a head apart. After the first fault it yields nothing.
type messageReader struct {
	rest string
	err  error
}

func (r *messageReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("message: "+format, args...)
	}
	r.rest = ""
}

func (r *messageReader) take(n int) string {
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

// uvarint takes a number in its shortest form.
func (r *messageReader) uvarint() (n uint64, ok bool) {
	for i := range min(len(r.rest), binary.MaxVarintLen64) {
		b := r.rest[i]
		n |= uint64(b&0x7f) << (7 * i)
		if b&0x80 != 0 {
			continue
		}
		if i > 0 && b == 0 || i == binary.MaxVarintLen64-1 && b > 1 {
			break // a longer form, or more than 64 bits
		}
		r.take(i + 1)
		return n, true
	}
	return 0, false
}

func (r *messageReader) number(what string) uint64 {
	n, ok := r.uvarint()
	if !ok {
		r.fail("the %s is no number, or cut off", what)
	}
	return n
}

// count is a number of things that each take at least a byte of what is left.
func (r *messageReader) count(what string) int {
	n := r.number(what)
	if n > uint64(len(r.rest)) {
		r.fail("the %s is %d, with %d bytes left", what, n, len(r.rest))
		return 0
	}
	return int(n)
}

func (r *messageReader) text(what string) string {
	n, ok := r.uvarint()
	switch {
	case !ok:
		r.fail("the length of the %s is no number, or cut off", what)
		return ""
	case n > uint64(len(r.rest)):
		r.fail("the length of the %s is %d, with %d bytes left", what, n, len(r.rest))
		return ""
	}
	return r.take(int(n))
}

func (r *messageReader) nonce(what string) (n Nonce) {
	if len(r.rest) < len(n) {
		r.fail("the %s is cut off", what)
		return n
	}
	copy(n[:], r.take(len(n)))
	return n
}

func (r *messageReader) time(what string) time.Time {
	zigzag, nanoseconds := r.number(what), r.number(what)
	if nanoseconds >= uint64(time.Second) {
		r.fail("the %s has %d nanoseconds", what, nanoseconds)
		return time.Time{}
	}
	return time.Unix(int64(zigzag>>1)^-int64(zigzag&1), int64(nanoseconds)).UTC()
}

func (r *messageReader) header() http.Header {
	names := r.count("number of header names")
	h := make(http.Header, min(names, fewNames))
	single := make([]string, names) // most names have one value
	last := ""
	for i := range names {
		name := r.text("name of a header")
		if i > 0 && name <= last {
			r.fail("the header names are not in rising order")
		}
		last = name
		if n := r.count("number of a header's values"); n > 0 {
			values := single[i : i+1 : i+1]
			if n > 1 {
				values = make([]string, n)
			}
			for i := range values {
				values[i] = r.text("value of a header")
			}
			h[name] = values
		} else {
			h[name] = nil
		}
		if r.err != nil {
			return nil
		}
	}
	return h
}
