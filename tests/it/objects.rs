//! What only a store of objects has: versions, markers, unfinished uploads, answers that cannot be believed.
