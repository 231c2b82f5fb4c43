package queue

// CheckCallback says what is wrong with an X-Callback-Url, and what would be
// right. What its host's name stands for is looked at when it is called.
func (q *Queue) CheckCallback(url string) error { return q.callbacks.check(url) }
