package queue

import (
	"encoding/base32"
	"errors"
	"strconv"
	"strings"
)

// Nonce is the part of an ID that nobody can guess: 128 random bits, or, of a
// call with an Idempotency-Key, 128 bits that only who has the Store's secret
// can tell from random ones.
type Nonce [16]byte

// ID names a call. Its place in the Store makes it found without an index.
type ID struct {
	Nonce Nonce
	Seq   uint64
}

var nonceText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String is 26 letters and digits, '-', and the place in base 36: at most 40
// characters of a URL's path.
func (id ID) String() string { return id.Nonce.String() + "-" + strconv.FormatUint(id.Seq, 36) }

func (n Nonce) String() string { return nonceText.EncodeToString(n[:]) }

var errID = errors.New("expected the ID of a call, as the Location of its 202 has it")

// ParseID reads what String wrote, and nothing else.
func ParseID(text string) (ID, error) {
	nonce, seq, ok := strings.Cut(text, "-")
	var id ID
	if !ok || len(nonce) != nonceText.EncodedLen(len(id.Nonce)) {
		return ID{}, errID
	}
	if _, err := nonceText.Decode(id.Nonce[:], []byte(nonce)); err != nil {
		return ID{}, errID
	}
	var err error
	if id.Seq, err = strconv.ParseUint(seq, 36, 64); err != nil || id.Seq == 0 || id.String() != text {
		return ID{}, errID
	}
	return id, nil
}
